"""A real server on a free loopback port, around an engine of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orpheus_plugin.options import MAX_TEXT_CHARS
from orpheus_plugin.remote.engine import RemoteEngine
from orpheus_plugin.server.app import make_app
from orpheus_plugin.server.config import Limits
from orpheus_plugin.server.process import Server
from orpheus_plugin.server.service import SpeechService
from orpheus_plugin.server.voice_map import VoiceMap
from orpheus_plugin.speech_engine import SpeechEngine


class KeptOpen(SpeechEngine if TYPE_CHECKING else object):  # type: ignore[misc]
    """An engine that stays open when it is closed."""

    def __init__(self, engine: SpeechEngine) -> None:
        self._engine = engine

    async def aclose(self) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


@dataclass
class RunningTestServer:
    url: str
    service: SpeechService
    server: Server
    task: asyncio.Task[int]

    @property
    def ws_url(self) -> str:
        return self.url.replace("http", "ws", 1)

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])


@contextlib.asynccontextmanager
async def serving(
    engine: SpeechEngine,
    *,
    limits: Limits | None = None,
    api_key: str | None = None,
    port: int = 0,
    drain_s: float = 5.0,
    voices: VoiceMap | None = None,
    origins: Sequence[str] = (),
) -> AsyncIterator[RunningTestServer]:
    """A server with all protocols for the engine, until the block ends; the engine is closed with
    it, unless it is KeptOpen."""
    service = SpeechService(engine, limits=limits, max_text_chars=MAX_TEXT_CHARS, voices=voices)
    app = make_app(service, api_key=api_key, origins=origins)
    server = Server(service, app, port=port, drain_s=drain_s)
    task = asyncio.create_task(server.run())
    try:
        async with asyncio.timeout(300):
            while not service.ready:
                if task.done():
                    await task
                await asyncio.sleep(0.01)
        yield RunningTestServer(server.url, service, server, task)
    finally:
        server.stop()
        server.stop()
        await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), 20)
    # However its clients left: no turn holds a place, and none had to be found by the watchdog.
    assert service.active_turns == 0
    assert service.abandoned == 0
    assert service.connections == 0


def break_connection(remote: RemoteEngine) -> None:
    """Abort it, as a network failure does: without a closing message."""
    connection = remote._keepers[0].connection
    assert connection is not None
    transport = connection._ws._response.connection.transport  # type: ignore[union-attr]
    remote._loop.post(transport.abort)  # type: ignore[union-attr]
