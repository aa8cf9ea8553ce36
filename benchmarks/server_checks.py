"""Checks of a server after a fault: a whole turn, and no turn or connection left over."""

from __future__ import annotations

import asyncio
import time

import aiohttp

from benchmarks.server_process import ServerProcess
from orpheus_plugin.errors import AtCapacity
from orpheus_plugin.events import AudioChunk
from orpheus_plugin.remote.engine import RemoteEngine
from orpheus_plugin.turn import Turn

TEXT = "The quick brown fox jumps over the lazy dog. "


class Checks:
    """Checks of one server.

    Attributes:
        spoken_s: seconds of audio of the last whole turn.
    """

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        self.spoken_s = 0.0

    async def speak(self) -> float:
        """One whole turn over a new connection; seconds of audio."""
        self.spoken_s = 0.0
        await self.hear()
        return self.spoken_s

    async def hear(self) -> tuple[float, int]:
        """The same; seconds to its first sound, and its underruns."""
        engine = RemoteEngine(self.server.url)
        try:
            await engine.start()
            async with asyncio.timeout(120):
                while True:
                    try:
                        async with engine.open_turn() as turn:
                            return await self._hear(turn)
                    except AtCapacity:
                        await asyncio.sleep(0.2)
        finally:
            await engine.aclose()

    async def _hear(self, turn: Turn) -> tuple[float, int]:
        began = time.monotonic()
        turn.push_text(TEXT)
        turn.end()
        samples = underruns = 0
        first_s = silent_at = 0.0
        async for event in turn:
            if isinstance(event, AudioChunk):
                now = time.monotonic()
                if not samples:
                    first_s = now - began
                elif now > silent_at + 0.001:
                    underruns += 1
                assert event.position == samples
                samples += event.samples
                silent_at = max(silent_at, now) + event.duration_s
        assert samples >= 2_048
        self.spoken_s = samples / 24_000
        return first_s, underruns

    async def clean(self) -> None:
        """Until no turn and no connection is left."""
        async with asyncio.timeout(60), aiohttp.ClientSession() as session:
            while True:
                async with session.get(f"{self.server.url}/healthz") as response:
                    state = await response.json()
                if state["active_turns"] == state["connections"] == 0:
                    return
                await asyncio.sleep(0.05)

    async def metric(self, name: str) -> float:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.server.url}/metrics") as response,
        ):
            lines = (await response.text()).splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))
