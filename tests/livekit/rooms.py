"""A real LiveKit server, a worker that joins its rooms, and callers that listen and type."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from livekit import api, rtc

from orpheus_plugin.livekit.markup import ORPHEUS_SOUNDS
from tests.pipecat.conversations import end_servers

ROOT = Path(__file__).parents[2]
KEY, SECRET = "devkey", "a secret of this test, long enough for a token"
LOUD = 150
"""Root mean square of a frame, of 32,768, in which somebody speaks."""


def server_program() -> str | None:
    """LiveKit's server, if it is on this machine: LIVEKIT_SERVER, or livekit-server on the PATH."""
    return os.environ.get("LIVEKIT_SERVER") or shutil.which("livekit-server")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def livekit_server(folder: Path) -> Iterator[str]:
    """Its address."""
    program = server_program()
    assert program is not None
    port = free_port()
    config = (
        f"port: {port}\n"
        "bind_addresses: [127.0.0.1]\n"
        f"rtc: {{node_ip: 127.0.0.1, use_external_ip: false, tcp_port: {free_port()}, udp_port:"
        f" {free_port()}}}\n"
        f"keys: {{{KEY}: {SECRET!r}}}\n"
    )
    with (
        (folder / "livekit-server.log").open("wb") as log,
        subprocess.Popen(
            [program, "--config-body", config, "--node-ip", "127.0.0.1"], stdout=log, stderr=log
        ) as server,
    ):
        try:
            wait_for(lambda: answers(port), 30)
            yield f"ws://127.0.0.1:{port}"
        finally:
            server.kill()


def agents_environment(url: str, state: Path) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ORPHEUS_", "OPENAI_", "LIVEKIT_"))
    }
    return kept | {
        "LIVEKIT_URL": url,
        "LIVEKIT_API_KEY": KEY,
        "LIVEKIT_API_SECRET": SECRET,
        "ORPHEUS_STATE_DIR": str(state),
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }


@dataclass
class Worker:
    url: str
    state: Path
    log: Path


@contextlib.contextmanager
def worker(url: str, folder: Path, program: Sequence[str], *steps: str) -> Iterator[Worker]:
    """An agent in a worker that has joined the server, and has logged these steps; it starts a
    speech server."""
    state, log = folder / "state", folder / "worker.log"
    environment = agents_environment(url, state)
    with (
        log.open("wb") as sink,
        subprocess.Popen(
            [sys.executable, *program],
            cwd=ROOT,
            env=environment,
            stdout=sink,
            stderr=sink,
        ) as process,
    ):
        try:
            for step in ("registered worker", *steps):
                wait_for(partial(_logged, log, step), 180, process)
            yield Worker(url, state, log)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            end_servers(state)  # not before: the worker would start another one


def _logged(log: Path, step: str) -> bool:
    return step in log.read_text("utf-8")


def wait_for(
    condition: Callable[[], bool], seconds: float, process: subprocess.Popen[bytes] | None = None
) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, "the process has ended"
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@dataclass
class Caller:
    """A caller in a room, who hears the agent and types."""

    room: rtc.Room = field(default_factory=rtc.Room)
    joined_at: float = 0.0
    heard: list[tuple[float, bool]] = field(default_factory=list)
    """When a frame came, and whether somebody spoke in it."""
    pcm: list[bytes] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    """What the agent said, by its captions, a segment each."""

    async def type(self, text: str) -> float:
        """Returns when."""
        await self.room.local_participant.send_text(text, topic="lk.chat")
        return time.monotonic()

    def sound_since(self, moment: float) -> float | None:
        """Seconds from then to the first sound."""
        return next((at - moment for at, loud in self.heard if loud and at >= moment), None)

    def sound_until(self) -> float:
        """When the last sound was heard."""
        return max((at for at, loud in self.heard if loud), default=0.0)

    def silent_after(self, moment: float) -> float:
        """Seconds from then to the last sound before 0.12 s without one."""
        last = moment
        for at, loud in self.heard:
            if loud and at >= moment:
                if at - last > 0.12:
                    break
                last = at
        return last - moment

    async def hears(self, moment: float, *, within_s: float = 120.0) -> float:
        """Wait for a sound after that. Returns the seconds to it."""
        async with asyncio.timeout(within_s):
            while (sound := self.sound_since(moment)) is None:
                await asyncio.sleep(0.01)
        return sound

    async def quiet(self, seconds: float = 1.5, *, within_s: float = 120.0) -> None:
        """Wait until nothing was heard for so long."""
        async with asyncio.timeout(within_s):
            while time.monotonic() - self.sound_until() < seconds:
                await asyncio.sleep(0.05)

    async def caption(self, text: str, *, within_s: float = 120.0) -> None:
        """Wait until the agent said this."""
        async with asyncio.timeout(within_s):
            while not any(text in said for said in self.said):
                await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def calling(url: str, token: str | None = None) -> AsyncIterator[Caller]:
    """In a new room, or in the one that the token is for."""
    caller, tasks = Caller(), set[asyncio.Task[None]]()

    async def listen(track: rtc.Track) -> None:
        async for event in rtc.AudioStream(track, sample_rate=24_000, num_channels=1):
            samples = np.frombuffer(event.frame.data, np.int16)
            loud = float(np.sqrt((samples.astype(float) ** 2).mean())) > LOUD
            caller.heard.append((time.monotonic(), loud))
            caller.pcm.append(samples.tobytes())

    async def read(reader: rtc.TextStreamReader) -> None:
        text = await reader.read_all()
        assert not any(f"<{sound}>" in text for sound in ORPHEUS_SOUNDS)
        caller.said.append(text)

    def keep(work: asyncio.Task[None]) -> None:
        tasks.add(work)
        work.add_done_callback(tasks.discard)

    caller.room.on("track_subscribed", lambda track, *_: keep(asyncio.create_task(listen(track))))
    caller.room.register_text_stream_handler(
        "lk.transcription", lambda reader, _: keep(asyncio.create_task(read(reader)))
    )
    if token is None:
        grants = api.VideoGrants(room_join=True, room=f"room-{uuid.uuid4().hex[:8]}")
        token = api.AccessToken(KEY, SECRET).with_identity("caller").with_grants(grants).to_jwt()
    caller.joined_at = time.monotonic()
    await caller.room.connect(url, token)
    try:
        yield caller
    finally:
        await caller.room.disconnect()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
