"""What one process compiles for another is begun once, where that is useful, and waited for."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orpheus_plugin.kernels import compiled, first_use
from tests.support.checkpoints import SMALL_TEXT, crafted_checkpoint
from tests.support.codecs import random_codec

WHAT = "loops of a test"
QUICK = "__hello__"  # a module of Python's that ends at once


@pytest.fixture(autouse=True)
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[str]]]:
    """Commands of the processes that were started."""
    commands: list[list[str]] = []
    real = subprocess.Popen

    def popen(command: list[str], **options: int) -> subprocess.Popen[bytes]:
        commands.append(command)
        return real(command, **options)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(compiled, "FOLDER", tmp_path)
    monkeypatch.setattr(subprocess, "Popen", popen)
    yield commands
    first_use.wait_for(WHAT)


def test_it_is_begun_once_and_waited_for(started: list[list[str]]) -> None:
    first_use.compile_ahead(WHAT, QUICK)
    first_use.compile_ahead(WHAT, QUICK)
    assert started == [[sys.executable, "-m", QUICK]]
    process = first_use._running[WHAT]
    first_use.wait_for(WHAT)
    assert process.returncode == 0
    first_use.wait_for(WHAT)  # nothing is left to wait for


def test_a_process_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_use, "LONGEST_S", 0.1)
    first_use.compile_ahead(WHAT, "http.server", "0")
    process = first_use._running[WHAT]
    first_use.wait_for(WHAT)
    assert process.returncode != 0


@pytest.mark.parametrize("why", ["compiled", "nowhere to keep it", "frozen"])
def test_nothing_is_begun_where_it_is_of_no_use(
    started: list[list[str]], monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    match why:
        case "compiled":
            with first_use.first_use(WHAT):
                pass
        case "nowhere to keep it":
            monkeypatch.setattr(compiled, "FOLDER", None)
        case _:
            monkeypatch.setattr(sys, "frozen", True, raising=False)
    first_use.compile_ahead(WHAT, QUICK)
    assert not started


@pytest.mark.parametrize("module", ["orpheus_plugin.tokens.cpu", "orpheus_plugin.codec.cpu"])
def test_each_step_compiles_for_a_model(module: str) -> None:
    folder = random_codec() if "codec" in module else crafted_checkpoint(text=SMALL_TEXT)
    done = subprocess.run(
        [sys.executable, "-m", module, str(folder)], capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr


def test_of_several_processes_one_compiles(caplog: pytest.LogCaptureFixture) -> None:
    begun = threading.Event()

    def other() -> None:
        with first_use.first_use(WHAT):
            begun.set()
            time.sleep(0.2)

    thread = threading.Thread(target=other)
    thread.start()
    begun.wait()
    with first_use.first_use(WHAT):
        assert not thread.is_alive() or first_use.is_compiled(WHAT)
    thread.join()
    assert caplog.text.count("Compiling the loops of a test") == 1
