"""The machine's server: started once for all callers, found again, ended when unused."""
# ruff: noqa: ASYNC220, ASYNC240 - a test may wait for a file or a process

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from orpheus_plugin.errors import ServerNotStarted
from orpheus_plugin.events import TurnEnd
from orpheus_plugin.remote.autostart import NICE, Wanted, find_or_start
from orpheus_plugin.remote.engine import RemoteEngine
from orpheus_plugin.remote.registry import RunningServer, recorded, records, state_dir

if TYPE_CHECKING:
    from orpheus_plugin.models.files import ModelFiles

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="looks at processes as POSIX has them"
)

ASK = """
import asyncio, json, sys
from orpheus_plugin.remote.autostart import Wanted, find_or_start
address = asyncio.run(find_or_start(Wanted(**json.loads(sys.argv[1]))))
print(json.dumps([address.url, address.api_key]))
"""


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state directory of the test's own; servers left in it are ended."""
    monkeypatch.setenv("ORPHEUS_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("ORPHEUS_URL", raising=False)
    monkeypatch.delenv("ORPHEUS_API_KEY", raising=False)
    yield tmp_path / "state"
    for server in records():
        if server.pid != os.getpid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(server.pid, signal.SIGKILL)


@pytest.fixture
def wanted(crafted_files: ModelFiles) -> Wanted:
    return Wanted(
        model=str(crafted_files.lm),
        device="cpu",
        idle_exit_s=1.0,
        start_timeout_s=90,
        arguments=("--codec", str(crafted_files.codec), "--max-turns", "2"),
    )


async def test_concurrent_starters_get_one_server_which_ends_when_unused(
    wanted: Wanted, state: Path
) -> None:
    asked = json.dumps(
        {**{name: getattr(wanted, name) for name in Wanted.__slots__}, "idle_exit_s": 4}
    )
    racing = [
        subprocess.Popen([sys.executable, "-c", ASK, asked], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    answers = {(await asyncio.to_thread(process.communicate))[0] for process in racing}
    assert len(answers) == 1
    url, key = json.loads(answers.pop())
    (server,) = records()
    assert (server.url, server.api_key) == (url, key)
    assert key
    for path in state.glob("server-*.json"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    command = Path(f"/proc/{server.pid}/cmdline")
    if command.exists():
        assert key.encode() not in command.read_bytes(), "others see the command line"

    if hasattr(os, "getpriority"):
        assert (
            os.getpriority(os.PRIO_PROCESS, server.pid) == os.getpriority(os.PRIO_PROCESS, 0) + NICE
        )

    # A new process' agent speaks through it, and while it is connected the server stays.
    engine = RemoteEngine(None, locate=partial(find_or_start, Wanted(**json.loads(asked))))
    await engine.start()
    async with engine.open_turn() as turn:
        turn.push_text("Hello there.")
        turn.end()
        events = [event async for event in turn]
    assert isinstance(events[-1], TurnEnd)
    await engine.aclose()
    deadline = time.monotonic() + 15
    while records() and time.monotonic() < deadline:
        await asyncio.sleep(0.2)
    assert records() == []
    assert "no client was connected" in next(state.glob("server-*.log")).read_text()


async def test_a_missing_model_is_reported_with_its_reason() -> None:
    with pytest.raises(ServerNotStarted, match="no-such-model"):
        await find_or_start(Wanted(model="/no-such-model", device="cpu", start_timeout_s=60))


async def test_warnings_of_a_starting_server_are_logged_by_the_starter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Here of an NVIDIA driver on a machine without torch."""
    (tmp_path / "sitecustomize.py").write_text(
        "from orpheus_plugin.models import devices\n"
        "devices.nvidia_driver = lambda: True\n"
        "devices.torch_installed = lambda: False\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    await find_or_start(Wanted(idle_exit_s=0.5, start_timeout_s=90, arguments=("--max-turns", "2")))
    (told,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert told.startswith("the speech server: This machine has an NVIDIA GPU")


async def test_records_of_dead_servers_and_other_programs_are_skipped(
    wanted: Wanted, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Wanted] = []

    def refuse(asked: Wanted) -> tuple[subprocess.Popen[bytes], Path]:
        started.append(asked)
        raise ServerNotStarted("not in this test")

    monkeypatch.setattr("orpheus_plugin.remote.autostart._spawn", refuse)

    async def hello(request: web.Request) -> web.Response:
        return web.json_response({"server": "something else", "ready": True})

    app = web.Application()
    app.router.add_get("/healthz", hello)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with (
        recorded(RunningServer("http://127.0.0.1:1", wanted.model, "cpu", os.getpid())),
        recorded(RunningServer(f"http://127.0.0.1:{port}", wanted.model, "cpu", os.getppid())),
        recorded(RunningServer("http://127.0.0.1:2", wanted.model, "cpu", gone.pid)),
    ):
        (state_dir() / "server-x.json").write_text("{")
        assert {server.pid for server in records()} == {os.getpid(), os.getppid()}
        with pytest.raises(ServerNotStarted, match="not in this test"):
            await find_or_start(wanted)
    assert started == [wanted]
    await runner.cleanup()


def test_a_server_of_another_model_is_not_used() -> None:
    server = RunningServer("http://127.0.0.1:1", "mini", "cpu", 1)
    assert Wanted().accepts(server)
    assert Wanted(model="mini").accepts(server)
    assert not Wanted(model="canopylabs/orpheus-3b-0.1-ft").accepts(server)
    assert not Wanted(device="cuda").accepts(server)
