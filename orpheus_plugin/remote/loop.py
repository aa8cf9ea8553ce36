"""A thread with an event loop, which starts with its first call."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from orpheus_plugin.errors import EngineDied

T = TypeVar("T")


class LoopThread:
    """The loop of an engine's connections. All methods are for any thread.

    Attributes:
        closed: it takes no more calls.
    """

    def __init__(self) -> None:
        self.closed = False
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def post(self, callback: Callable[..., object], *args: object) -> None:
        """Call something on the loop, in order. Raises EngineDied when closed."""
        with self._lock:
            self._running().call_soon_threadsafe(callback, *args)

    async def run(self, task: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop, and await it here. Raises EngineDied when closed."""
        with self._lock:
            try:
                loop = self._running()
            except EngineDied:
                task.close()
                raise
            future: Future[T] = asyncio.run_coroutine_threadsafe(task, loop)
        return await asyncio.wrap_future(future)

    async def aclose(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run `last` after everything that was posted, then end the thread. Idempotent."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
            self.closed = True
            if loop is None or thread is None:
                return
            # Under the lock: nothing is posted after it.
            future: Future[None] = asyncio.run_coroutine_threadsafe(last(), loop)
        await asyncio.wrap_future(future)
        loop.call_soon_threadsafe(loop.stop)
        await asyncio.to_thread(thread.join)

    def _running(self) -> asyncio.AbstractEventLoop:
        """Under the lock."""
        if self.closed:
            raise EngineDied("this engine was closed")
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=_run_loop, args=(self._loop,), name="orpheus-client", daemon=True
            )
            self._thread.start()
        return self._loop


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
