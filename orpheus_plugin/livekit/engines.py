"""Where the speech comes from: an engine that was given, a server by address, or this machine's own server."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from orpheus_plugin.livekit.log import logger

if TYPE_CHECKING:
    from orpheus_plugin.remote.engine import RemoteEngine
    from orpheus_plugin.turn import SpeechEngine

CONNECT_S = 3.0
"""How long a server that refuses connections may take to come back before an attempt fails. LiveKit then tries again, or
another TTS. Starting this machine's own server may take as long as its model needs."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A running engine, what waiting for it cost, and whether it was running before."""

    engine: SpeechEngine
    waited_s: float
    reused: bool


class EngineSource:
    """The engine of one OrpheusTTS. Several of a process that speak through the same server share its connection.

    Args:
        engine: use this one; whoever made it closes it.
        url: of a server; by default ORPHEUS_URL, else the server running on this machine, else one is started.
        api_key: of the server; by default ORPHEUS_API_KEY.
        model: what this machine's server must speak with; "auto" takes any.

    Raises ValueError for what is no address, and for two answers to one question.
    """

    def __init__(
        self,
        engine: SpeechEngine | None,
        *,
        url: str | None = None,
        api_key: str | None = None,
        model: str = "auto",
    ) -> None:
        if engine is not None and url is not None:
            raise ValueError("give engine= or url=, not both")
        url = url or os.environ.get("ORPHEUS_URL") or None
        if model != "auto" and (engine is not None or url is not None):
            raise ValueError(
                "model= chooses the server of this machine; an engine or a server at an address has its model already"
            )
        self._shared: _Shared | None = None
        self._warming: asyncio.Task[None] | None = None
        if engine is None:
            self._shared = _share(
                (url, api_key or os.environ.get("ORPHEUS_API_KEY") or None, model)
            )
            engine = self._shared.engine
        self.engine: SpeechEngine = engine

    async def acquire(self) -> Lease:
        """The engine, running. May be cancelled: connecting or loading goes on for whoever asks next."""
        reused = self.engine.health().ready
        began = time.perf_counter()
        await self.engine.start()
        return Lease(self.engine, 0.0 if reused else time.perf_counter() - began, reused)

    def prewarm(self) -> None:
        """Begin to connect; a given engine begins to load, which needs a running event loop."""
        if self._shared is not None:
            self._shared.engine.prewarm()
        elif self._warming is None or self._warming.done():
            self._warming = asyncio.create_task(self._warm(), name="orpheus-prewarm")

    async def _warm(self) -> None:
        try:
            await self.engine.start()
        except Exception as error:
            # Its text may hold an address with a key in it. The first turn tries again and reports.
            logger.warning("the speech engine is not there yet: %s", type(error).__name__)

    async def aclose(self) -> None:
        if self._warming is not None:
            self._warming.cancel()
            await asyncio.gather(self._warming, return_exceptions=True)
        shared, self._shared = self._shared, None
        if shared is not None:
            await _release(shared)


_Key = tuple[str | None, str | None, str]


@dataclass(slots=True)
class _Shared:
    key: _Key
    engine: RemoteEngine
    users: int = 0


_shared: dict[_Key, _Shared] = {}
_lock = threading.Lock()


def _share(key: _Key) -> _Shared:
    with _lock:
        shared = _shared.get(key)
        if shared is None:
            shared = _shared[key] = _Shared(key, _connect_to(*key))
        shared.users += 1
        return shared


async def _release(shared: _Shared) -> None:
    with _lock:
        shared.users -= 1
        if shared.users:
            return
        del _shared[shared.key]
    await shared.engine.aclose()


def _connect_to(url: str | None, api_key: str | None, model: str) -> RemoteEngine:
    from orpheus_plugin.remote.autostart import Wanted, find_or_start
    from orpheus_plugin.remote.engine import RemoteEngine

    if url is not None:
        return RemoteEngine(url, api_key=api_key, connect_timeout_s=CONNECT_S)
    return RemoteEngine(
        None, locate=partial(find_or_start, Wanted(model=model)), connect_timeout_s=CONNECT_S
    )
