"""The machine's speech server: found where one runs, else started. For frameworks with a process
per call.

`resolve.py` decides which engine uses it. A server that is started here is detached and keeps
running when its starter ends; it ends by itself when no client has been connected for a while. Two
processes that start a server at the same time get the same one.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import secrets
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import aiohttp
from filelock import AsyncFileLock, Timeout

from orpheus_plugin.errors import ServerNotStarted
from orpheus_plugin.remote.connection import Address
from orpheus_plugin.remote.registry import RunningServer, own_file, records, state_dir

logger = logging.getLogger(__name__)

URL_VARIABLE = "ORPHEUS_URL"
KEY_VARIABLE = "ORPHEUS_API_KEY"

NICE = 5
"""Niceness of a server on a CPU. Speech is generated ahead of its playback; an agent, which sends a
frame every 10 ms, and a browser that plays it on the same machine cannot wait."""

POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which server is wanted.

    Attributes:
        model: "auto" accepts any model of a running server; another name accepts only that model.
        device: as `model`.
        idle_exit_s: a server that is started here ends when no client has been connected for so
            long.
        start_timeout_s: how long loading the model may take.
        arguments: more options of `orpheus-tts serve` for a server that is started here.
    """

    model: str = "auto"
    device: str = "auto"
    idle_exit_s: float = 600.0
    start_timeout_s: float = 600.0
    arguments: tuple[str, ...] = ()

    def accepts(self, server: RunningServer) -> bool:
        return self.model in ("auto", server.model) and self.device in ("auto", server.device)

    @property
    def name(self) -> str:
        """The name of its files: a hash, so that nothing a user wrote gets into a path."""
        identity = repr((self.model, self.device, self.arguments))
        return hashlib.sha256(identity.encode()).hexdigest()[:12]


async def find_or_start(wanted: Wanted | None = None) -> Address:
    """The address of a server on this machine that is ready to speak. Raises ServerNotStarted."""
    wanted = wanted or Wanted()
    try:
        state_dir()
    except OSError as error:
        raise ServerNotStarted(f"no folder for the records of servers: {error}") from error
    deadline = time.monotonic() + wanted.start_timeout_s
    # A server that is still loading is waited for; one that does not answer is ignored.
    if (address := await _find(wanted, deadline)) is not None:
        return address
    async with _only_one(wanted, deadline):
        if (address := await _find(wanted, deadline)) is not None:
            return address
        log, known = _log_file(wanted), 0
        with contextlib.suppress(OSError):
            known = log.stat().st_size
        process, output = await asyncio.to_thread(_spawn, wanted)
        while time.monotonic() < deadline:
            if (address := await _find(wanted, deadline)) is not None:
                await asyncio.to_thread(_repeat_warnings, log, known)
                return address
            if process.poll() is not None:
                raise ServerNotStarted(_why(process.returncode, output))
            await asyncio.sleep(POLL_S)
        process.terminate()
        raise ServerNotStarted(
            f"the speech server was not ready within {wanted.start_timeout_s:g} s; see {output}"
        )


# ---- finding


async def _find(wanted: Wanted, deadline: float) -> Address | None:
    timeout = aiohttp.ClientTimeout(total=2)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        for server in await asyncio.to_thread(records):
            if not wanted.accepts(server) or server.url.startswith("unix:"):
                continue
            while (ready := await _ready(session, server)) is not None:
                if ready:
                    key = server.api_key or os.environ.get(KEY_VARIABLE) or None
                    return Address(server.url, key)
                if time.monotonic() >= deadline:
                    break
                await asyncio.sleep(POLL_S)
    return None


async def _ready(session: aiohttp.ClientSession, server: RunningServer) -> bool | None:
    """Whether it takes turns; None if it does not answer, is about to end, or is another
    program."""
    try:
        async with session.get(f"{server.url}/healthz") as response:
            state = await response.json()
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return None
    if not isinstance(state, dict) or state.get("server") != "orpheus_plugin":
        return None
    return None if state.get("draining") else bool(state.get("ready"))


# ---- starting


def _spawn(wanted: Wanted) -> tuple[subprocess.Popen[bytes], Path]:
    """A detached server on a free port of loopback, with a key that only this user can read."""
    output = own_file(f"start-{wanted.name}.out")
    command = [
        *(sys.executable, "-m", "orpheus_plugin", "serve", "--host", "127.0.0.1", "--port", "0"),
        *("--model", wanted.model, "--device", wanted.device),
        *("--nice", str(NICE)),
        *("--idle-exit", f"{wanted.idle_exit_s:g}"),
        *("--log-file", str(_log_file(wanted))),
        *wanted.arguments,
    ]
    environment = {
        **os.environ,
        KEY_VARIABLE: secrets.token_urlsafe(24),
        "ORPHEUS_AUTOSTARTED": "1",
    }
    logger.info("starting the speech server of this machine; its log is in %s", output.parent)
    with contextlib.ExitStack() as stack:
        sink: IO[bytes] | int
        try:
            sink = stack.enter_context(output.open("wb"))
        except OSError:
            sink = subprocess.DEVNULL
        detached: dict[str, object] = (
            {"creationflags": 0x00000008 | 0x00000200}  # DETACHED_PROCESS, CREATE_NEW_PROCESS_GROUP
            if sys.platform == "win32"
            else {"start_new_session": True}
        )
        process: subprocess.Popen[bytes] = subprocess.Popen(  # type: ignore[call-overload]
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            **detached,
        )
    return process, output


def _log_file(wanted: Wanted) -> Path:
    return own_file(f"server-{wanted.name}.log")


def _repeat_warnings(log: Path, start: int) -> None:
    """Log the server's warnings since it was started: a model that is not here, a GPU that is not
    used."""
    try:
        with log.open("rb") as file:
            file.seek(start)
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return
    for line in lines:
        _, level, _, message, *_ = *line.split(" ", 3), "", "", ""
        if level == "WARNING":
            logger.warning("the speech server: %s", message)


def _why(code: int, output: Path) -> str:
    try:
        lines = output.read_text("utf-8", "replace").strip().splitlines()
    except OSError:
        lines = []
    reason = lines[-1][:300] if lines else f"it ended with status {code}"
    return f"the speech server of this machine could not be started: {reason} (see {output})"


@contextlib.asynccontextmanager
async def _only_one(wanted: Wanted, deadline: float) -> AsyncIterator[None]:
    """Hold the lock of this kind of server. The system releases it even if this process is
    killed."""
    lock = AsyncFileLock(own_file(f"start-{wanted.name}.lock"))
    try:
        await lock.acquire(timeout=max(0.0, deadline - time.monotonic()), poll_interval=POLL_S)
    except Timeout:
        raise ServerNotStarted(
            f"another process has been starting a server for too long ({lock.lock_file})"
        ) from None
    try:
        yield
    finally:
        await lock.release()
