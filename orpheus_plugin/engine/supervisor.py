"""Starts an engine's parts on a loop and a thread of their own, restarts them when they die, and
closes them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future

from orpheus_plugin.engine.utterance_job import EngineParts
from orpheus_plugin.errors import EngineDied, OrpheusError

logger = logging.getLogger(__name__)

WATCH_S = 0.25
"""Seconds between checks of the parts. A check costs a few microseconds."""

BEAT_LIMIT_S = 10.0
"""An engine whose loop has not moved for so long is not ready."""

CLOSE_S = 10.0
"""Seconds that dead parts may take to close; then they are abandoned."""


class Supervisor:
    """Starts, restarts and closes one engine. Its loop runs on a thread named "orpheus-engine".

    Args:
        build: makes the parts, the token engine not yet started. Blocking: called on a worker
            thread.
        warm_up: awaited with the parts when they run for the first time.
        end_turns: awaited with the error for the turns: those that use dead parts (`busy_only`), or
            at the end all of them.
        tick: called on the loop several times a second.
    """

    def __init__(
        self,
        build: Callable[[], EngineParts],
        warm_up: Callable[[EngineParts], Awaitable[None]],
        end_turns: Callable[[OrpheusError, bool], Awaitable[None]],
        tick: Callable[[], None],
    ) -> None:
        self.parts: EngineParts | None = None
        self.failure: OrpheusError | None = None
        self.restarts = 0
        self._build = build
        self._warm_up = warm_up
        self._end_turns = end_turns
        self._tick = tick
        self._closed = False
        self._pid = os.getpid()  # of the process whose threads they are
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._starting: Future[None] | None = None
        self._started = False
        # The rest belongs to the loop.
        self._running = asyncio.Event()  # not set while it starts, restarts or closes
        self._tasks: set[asyncio.Task[None]] = set()
        self._beat = time.monotonic()

    @property
    def ready(self) -> bool:
        """Whether all of its threads and processes run and none hangs. From any thread."""
        parts = self.parts
        return (
            self._started
            and self._running.is_set()
            and time.monotonic() - self._beat < BEAT_LIMIT_S
            and parts is not None
            and parts.failure is None
        )

    @property
    def closed(self) -> bool:
        """Closed and not started since, or of the process that forked this one."""
        return self._closed or self._forked

    @property
    def _forked(self) -> bool:
        return self._pid != os.getpid()

    def _check_process(self) -> None:
        if self._forked:
            raise EngineDied(
                f"this engine runs in process {self._pid}, which forked this one; a forked process"
                " has no threads of its parent: make an engine in each process, start processes by"
                " spawning, or speak through a server (orpheus-tts serve)"
            )

    async def start(self) -> None:
        """Returns at once when running. Raises what loading raises, and EngineDied when it is
        closed meanwhile, or in a forked process."""
        self._check_process()
        with self._lock:
            starting = self._starting
            if starting is None or (starting.done() and starting.exception() is not None):
                self._closed = False
                if self._loop is None:
                    self._loop = asyncio.new_event_loop()
                    self._thread = threading.Thread(
                        target=self._run, args=(self._loop,), name="orpheus-engine", daemon=True
                    )
                    self._thread.start()
                starting = self._starting = asyncio.run_coroutine_threadsafe(
                    self._start(), self._loop
                )
        try:
            await asyncio.shield(asyncio.wrap_future(starting))
        except asyncio.CancelledError:
            if starting.cancelled():
                raise EngineDied("the engine was closed while it started") from None
            raise

    async def aclose(self) -> None:
        """End all turns and free everything. Idempotent."""
        if self._forked:
            return  # nothing of it runs here
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = self._starting = None
            self._closed = True
        if loop is None or thread is None:
            return
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._stop(), loop))
        loop.call_soon_threadsafe(loop.stop)
        await asyncio.to_thread(thread.join)

    @contextlib.contextmanager
    def running(self) -> Iterator[asyncio.AbstractEventLoop]:
        """The loop. Calls that are posted to it inside the block run before the engine ends. From
        any thread.

        Raises EngineDied when the engine is not running; an engine that could not be restarted is
        then tried again.
        """
        self._check_process()
        with self._lock:
            loop = self._loop
            if loop is None or not self._started:
                raise EngineDied("the engine is not running; await engine.start() first")
            if self.failure is not None:
                loop.call_soon_threadsafe(self.restart)
                raise EngineDied(
                    f"the engine died and could not be restarted ({self.failure}); it is being"
                    " tried again"
                )
            yield loop

    # ---- on the loop

    async def running_parts(self) -> EngineParts:
        """The parts, once they run."""
        await self._running.wait()
        if self.parts is None:
            raise EngineDied(str(self.failure or "the engine was closed"))
        return self.parts

    def watch(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Run a task until the engine is closed."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def restart(self, error: OrpheusError | None = None) -> None:
        """The parts have died: end the turns that use them, and start new parts. The other turns
        wait.

        Idempotent while it is under way.
        """
        if self._running.is_set():  # otherwise it restarts already, or the engine is closing
            self._running.clear()
            self.watch(self._restart(error or EngineDied("the engine died")))

    async def _watch_parts(self) -> None:
        while True:
            await asyncio.sleep(WATCH_S)
            self._beat = time.monotonic()
            self._tick()
            if self.parts is not None and (failure := self.parts.failure) is not None:
                self.restart(failure)

    async def _start(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            self._running = asyncio.Event()
            self.failure = None
            self.parts = await self._load()
            try:
                await self._warm_up(self.parts)
            except BaseException:
                await self._unload()
                raise
            self._beat = time.monotonic()  # loading may have taken long
            self._running.set()
            self._started = True
            self.watch(self._watch_parts())
        finally:
            self._tasks.discard(task)

    async def _load(self) -> EngineParts:
        building = asyncio.ensure_future(asyncio.to_thread(self._build))
        try:
            parts = await asyncio.shield(building)
            await parts.generator.start()
            await asyncio.to_thread(parts.codec.start)  # runs already unless it is in vLLM's worker
        except BaseException:
            await asyncio.wait({building})  # a thread cannot be cancelled
            if building.exception() is None:
                parts = building.result()
                await parts.generator.aclose()
                await asyncio.to_thread(parts.codec.close)
            raise
        return parts

    async def _restart(self, error: OrpheusError) -> None:
        logger.error("the engine is restarted: %s", error)
        try:
            await self._end_turns(error, True)
            del error
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await self._unload()
            # Tracebacks of what died hold its frames, which hold the model: it would stay in memory
            # twice.
            await asyncio.to_thread(gc.collect)
            self.parts = await self._load()
            self.failure = None
            self.restarts += 1
            logger.warning("the engine runs again")
        except Exception as failure:
            self.failure = (
                failure if isinstance(failure, OrpheusError) else EngineDied(repr(failure))
            )
            logger.exception("the engine could not be restarted")
        finally:
            self._running.set()

    async def _stop(self) -> None:
        self._running.clear()  # turns that end now must not cause a restart
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._running.clear()  # a start or restart that ended just now has set it
        self._started = False
        await self._end_turns(EngineDied("the engine was closed"), False)
        await self._unload()

    async def _unload(self) -> None:
        parts, self.parts = self.parts, None
        if parts is not None:
            try:
                await parts.generator.aclose()
            finally:
                await asyncio.to_thread(parts.codec.close)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        stopped = False
        while not stopped:
            try:
                loop.run_forever()
                stopped = True
            except BaseException as error:  # SystemExit in a callback, for one
                logger.exception("the engine's loop was interrupted")
                died = EngineDied(f"the engine's loop was interrupted: {type(error).__name__}")
                loop.call_soon(self.restart, died)
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
