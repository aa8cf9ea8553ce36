"""Records of running servers: another user's are not used, and malformed ones are skipped."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from orpheus_plugin.errors import ServerNotStarted
from orpheus_plugin.remote.autostart import Wanted, find_or_start
from orpheus_plugin.remote.registry import RunningServer, own_file, recorded, records, state_dir

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="owners and modes are POSIX'")
needs_root = pytest.mark.skipif(
    getattr(os, "getuid", lambda: 1)() != 0, reason="only root can make another user's files"
)

SERVER = RunningServer("http://127.0.0.1:1", "mini", "cpu", os.getpid(), "key")
RECORD = {"url": SERVER.url, "model": "mini", "device": "cpu", "pid": SERVER.pid, "api_key": "key"}
STRANGER = 54_321


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ORPHEUS_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.mark.parametrize(
    "record",
    [
        "",
        "[1]",
        "[" * 100_000,
        json.dumps(RECORD) + " " * 100_000,
        *(
            json.dumps(RECORD | wrong)
            for wrong in (
                {"pid": 2**70},
                {"pid": 0},
                {"pid": -1},
                {"pid": "7"},
                {"pid": True},
                {"url": 5},
                {"url": "ftp://x"},
                {"url": "http://" + "x" * 5_000},
                {"url": "http://a b"},
                {"model": 7},
                {"api_key": 9},
            )
        ),
    ],
    ids=lambda record: record[:20],  # without the process id, which differs among workers
)
def test_a_malformed_record_does_not_hide_others(record: str) -> None:
    with recorded(SERVER):
        (state_dir() / "server-7.json").write_text(record)
        assert records() == [SERVER]


@needs_root
def test_a_record_of_another_user_is_not_used() -> None:
    with recorded(SERVER):
        theirs = state_dir() / "server-7.json"
        theirs.write_text(json.dumps(RECORD | {"url": "http://127.0.0.1:2"}))
        os.chown(theirs, STRANGER, STRANGER)
        assert records() == [SERVER]


def test_a_record_that_is_a_link_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text(json.dumps(RECORD))
    (state_dir() / "server-7.json").symlink_to(tmp_path / "elsewhere")
    assert records() == []


def test_a_link_in_place_of_a_file_is_removed_and_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (state_dir() / "start-x.out").symlink_to(precious)
    own_file("start-x.out").write_text("new")
    assert precious.read_text() == "precious"
    own_file("start-x.out").write_text("newer")
    assert (state_dir() / "start-x.out").read_text() == "newer"


@needs_root
@pytest.mark.parametrize("linked", [False, True])
def test_the_directory_of_another_user_is_refused(
    state: Path, tmp_path: Path, linked: bool
) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, STRANGER, STRANGER)
    if linked:
        state.symlink_to(theirs)
    else:
        theirs.rename(state)
    with pytest.raises(ServerNotStarted, match="ORPHEUS_STATE_DIR"):
        asyncio.run(find_or_start(Wanted()))
    assert records() == []
    with recorded(SERVER):  # it serves nevertheless
        assert list(state.iterdir()) == []


def test_an_existing_directory_is_closed_to_other_users(state: Path) -> None:
    state.mkdir(mode=0o777)
    state.chmod(0o777)
    assert state_dir().stat().st_mode & 0o777 == 0o700
