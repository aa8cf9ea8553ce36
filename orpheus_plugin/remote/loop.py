"""A thread with an event loop, which starts with its first call."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from orpheus_plugin.errors import EngineDied

T = TypeVar("T")


class LoopThread:
    """The loop of an engine's connections. All methods are for any thread."""

    def __init__(self) -> None:
        self._closed = False
        self._pid = os.getpid()  # of the process whose thread it is
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def closed(self) -> bool:
        """It takes no more calls: it was closed, or runs in the process that forked this one."""
        return self._closed or self._forked

    @property
    def _forked(self) -> bool:
        return self._thread is not None and self._pid != os.getpid()

    def _check_process(self) -> None:
        if self._forked:
            raise EngineDied(
                f"this connection belongs to process {self._pid}, which forked this one: make a"
                " RemoteEngine in each process"
            )

    def post(self, callback: Callable[..., object], *args: object) -> None:
        """Call something on the loop, in order. Raises EngineDied when closed."""
        self._check_process()
        with self._lock:
            self._running().call_soon_threadsafe(callback, *args)

    async def run(self, task: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop, and await it here. Raises EngineDied when closed."""
        if self._forked:
            task.close()
            self._check_process()
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
        if self._forked:
            return  # nothing of it runs here
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
            self._closed = True
            if loop is None or thread is None:
                return
            # Under the lock: nothing is posted after it.
            future: Future[None] = asyncio.run_coroutine_threadsafe(last(), loop)
        await asyncio.wrap_future(future)
        loop.call_soon_threadsafe(loop.stop)
        await asyncio.to_thread(thread.join)

    def _running(self) -> asyncio.AbstractEventLoop:
        """Under the lock."""
        if self._closed:
            raise EngineDied("this engine was closed")
        if self._loop is None:
            self._pid = os.getpid()
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
