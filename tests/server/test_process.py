"""`orpheus-tts serve` as a process: it starts, is killed, ends in order, and survives a full
disk."""
# ruff: noqa: ASYNC220, ASYNC240 - a test may wait for a process

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest

from orpheus_plugin.errors import ConnectionFailed
from orpheus_plugin.events import AudioChunk
from orpheus_plugin.remote.engine import RemoteEngine
from tests.support.turns import spoken

if TYPE_CHECKING:
    from orpheus_plugin.models.files import ModelFiles

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals as POSIX has them")
SERVE = [sys.executable, "-m", "orpheus_plugin", "serve", "--device", "cpu"]


@contextlib.asynccontextmanager
async def served(
    files: ModelFiles, tmp_path: Path, *arguments: str, program: Sequence[str] = SERVE[1:]
) -> AsyncIterator[tuple[subprocess.Popen[str], RemoteEngine]]:
    """A ready server and a client of it."""
    process = subprocess.Popen(
        [
            *(sys.executable, *program, "--model", str(files.lm), "--codec", str(files.codec)),
            *("--max-turns", "4", "--port", "0", *arguments),
        ],
        stdout=subprocess.PIPE,
        stderr=(tmp_path / "stderr").open("w"),
        text=True,
        env={**os.environ, "ORPHEUS_STATE_DIR": str(tmp_path)},
    )
    assert process.stdout is not None
    engine: RemoteEngine | None = None
    try:
        line = await asyncio.to_thread(process.stdout.readline)
        assert "listening on" in line, (tmp_path / "stderr").read_text()
        engine = RemoteEngine(line.split()[-1], connect_timeout_s=90)
        await engine.start()
        yield process, engine
    finally:
        if engine is not None:
            await engine.aclose()
        process.kill()
        process.wait()


async def speak(engine: RemoteEngine, text: str) -> float:
    async with engine.open_turn() as turn:
        return await spoken(turn, text) / 24_000


async def test_sigterm_lets_turns_finish_and_exits_with_zero(
    crafted_files: ModelFiles, tmp_path: Path
) -> None:
    async with served(crafted_files, tmp_path) as (process, engine):
        assert engine.health().ready
        text = "This sentence is spoken to its very end. And so is the one that comes after it."
        speaking = [asyncio.create_task(speak(engine, text)) for _ in range(3)]
        async with asyncio.timeout(30):
            while not engine.health().active_turns and not any(t.done() for t in speaking):
                await asyncio.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        for seconds in await asyncio.wait_for(asyncio.gather(*speaking), 60):
            assert seconds > 0
        assert await asyncio.to_thread(process.wait, 20) == 0
        assert not list(tmp_path.glob("server-*.json"))
        errors = (tmp_path / "stderr").read_text()
        assert "Traceback" not in errors
        assert "Unclosed" not in errors
        assert text[:10] not in errors, "what is said is not logged unless asked for"


async def test_loaded_objects_are_excluded_from_garbage_collection(
    crafted_files: ModelFiles, tmp_path: Path
) -> None:
    """A full collection walks through all objects of torch and delays all audio meanwhile."""
    program = (
        "-c",
        "import gc, signal, sys\n"
        "def tell(*_):\n"
        "    print('frozen', gc.get_freeze_count(), 'of', gc.get_freeze_count() +"
        " len(gc.get_objects()), flush=True)\n"
        "signal.signal(signal.SIGUSR1, tell)\n"
        "from orpheus_plugin.cli.main import main\n"
        "sys.exit(main(['serve', '--device', 'cpu', *sys.argv[1:]]))\n",
    )
    async with served(crafted_files, tmp_path, program=program) as (process, engine):
        assert await speak(engine, "Hello there.") > 0
        process.send_signal(signal.SIGUSR1)
        assert process.stdout is not None
        words = (await asyncio.to_thread(process.stdout.readline)).split()
        assert int(words[1]) > 0.9 * int(words[3])


async def test_a_killed_server_fails_its_turns_at_once(
    crafted_files: ModelFiles, tmp_path: Path
) -> None:
    async with served(crafted_files, tmp_path) as (process, engine):
        turn = engine.open_turn()
        turn.push_text("A very long sentence that nobody will ever hear the end of. " * 5)
        with pytest.raises(ConnectionFailed):
            async with asyncio.timeout(30):
                async for event in turn:
                    if isinstance(event, AudioChunk):
                        process.kill()


async def test_a_full_disk_affects_only_the_log(crafted_files: ModelFiles, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    socket = tmp_path / "o.sock"
    arguments = ("--log-file", "/dev/full", "--log-level", "debug", "--uds", str(socket))
    async with served(crafted_files, tmp_path, *arguments) as (process, engine):
        assert socket.stat().st_mode & 0o777 == 0o600
        assert await speak(engine, "Hello there.") > 0
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket))) as session,
            session.get("http://localhost/readyz") as response,
        ):
            assert response.status == 200
        second = await asyncio.to_thread(
            subprocess.run,
            [*SERVE, "--model", "mini", "--uds", str(socket)],
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "ORPHEUS_STATE_DIR": str(tmp_path / "second")},
        )
        assert second.returncode == 2
        assert "another server listens there" in second.stderr
        assert await speak(engine, "Hello again.") > 0
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 20) == 0
        assert "Traceback" not in (tmp_path / "stderr").read_text()
    assert not socket.exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--host", "0.0.0.0"], "--insecure"),
        (["--voice-map", "/nowhere.json"], "/nowhere.json"),
        (["--port", "1", "--host", "127.0.0.1"], "cannot listen"),
    ],
)
def test_a_server_that_cannot_start_prints_one_line(
    arguments: list[str], reason: str, tmp_path: Path
) -> None:
    if "1" in arguments and os.geteuid() == 0:
        arguments = ["--host", "203.0.113.1", "--insecure"]  # an address that is not ours
    done = subprocess.run(
        [*SERVE, "--model", "mini", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "ORPHEUS_STATE_DIR": str(tmp_path), "ORPHEUS_API_KEY": ""},
    )
    assert done.returncode == 2
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


AUTOGROUP = Path("/proc/self/autogroup")


@pytest.mark.skipif(not AUTOGROUP.exists(), reason="the kernel does not compare sessions")
@pytest.mark.parametrize("own_session", [True, False])
def test_nice_holds_between_sessions_and_changes_no_session_of_others(own_session: bool) -> None:
    ours = AUTOGROUP.read_text()
    script = (
        "import os, pathlib\n"
        "from orpheus_plugin.server.process import let_others_first\n"
        "let_others_first(5)\n"
        "print(os.nice(0), pathlib.Path('/proc/self/autogroup').read_text())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        start_new_session=own_session,
        capture_output=True,
        text=True,
        check=True,
    )
    niceness, _, session = done.stdout.strip().partition(" ")
    assert int(niceness) == os.nice(0) + 5
    assert session.endswith("nice 5") if own_session else session == ours.strip()
    assert AUTOGROUP.read_text() == ours
