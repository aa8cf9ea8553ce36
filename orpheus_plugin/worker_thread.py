"""A worker thread that others can check: whether it runs, and whether its step takes too long."""

from __future__ import annotations

import atexit
import logging
import threading
import time
import weakref
from collections.abc import Callable
from types import TracebackType

from orpheus_plugin.errors import EngineDied

logger = logging.getLogger(__name__)

STEP_LIMIT_S = 10.0
"""A thread whose step takes longer counts as hanging."""

JOIN_S = 5.0
"""How long `join` waits for the step in flight. A hanging thread is abandoned."""


_started: weakref.WeakSet[WorkerThread] = weakref.WeakSet()
_process_ends = False


class WorkerThread:
    """A daemon thread that does one thing, in steps: `with thread: ...` around each.

    It is stopped and joined before the process ends: a thread that is in a library's C++ code while
    the interpreter goes aborts the process, and the exit status is lost.

    Args:
        name, what: of the thread, and of its work in messages: "orpheus-codec", "the codec".
        work: returns only when it was asked to stop.
        stop: asks it to. From any thread, more than once.
        died: called on the thread when an exception of any kind ended it, with the error for those
            who wait for its work.
    """

    def __init__(
        self,
        name: str,
        what: str,
        work: Callable[[], None],
        *,
        stop: Callable[[], None],
        died: Callable[[EngineDied], None],
    ) -> None:
        self.stop = stop
        self._what = what
        self._work = work
        self._died = died
        self._error: EngineDied | None = None
        self._step_began: float | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        _started.add(self)
        self._thread.start()

    def join(self) -> None:
        """Wait up to JOIN_S for its end. Blocking; not from the thread itself."""
        if self._thread is threading.current_thread():
            return
        self._thread.join(JOIN_S)
        if self._thread.is_alive():
            logger.error("%s hangs; it is abandoned", self._what)

    @property
    def failure(self) -> EngineDied | None:
        """Why it no longer works; None while it does. From any thread."""
        if self._error is not None:
            return self._error
        if self._thread.ident is not None and not self._thread.is_alive() and not _process_ends:
            return EngineDied(f"{self._what} has ended")
        began = self._step_began
        if began is not None and time.monotonic() - began > STEP_LIMIT_S:
            return EngineDied(f"{self._what} hangs: a step takes over {STEP_LIMIT_S:g} s")
        return None

    def __enter__(self) -> None:
        self._step_began = time.monotonic()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._step_began = None

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # SystemExit and what a debugger injects, too
            logger.exception("%s died", self._what)
            reason = str(error).strip().partition("\n")[0]
            self._error = EngineDied(f"{self._what} died: {type(error).__name__} {reason}")
            self._died(self._error)
        finally:
            # Its owner, which holds this object, is freed without waiting for the collector.
            self._work = self.stop = _nothing
            self._died = _tell_nobody


def _nothing() -> None:
    pass


def _tell_nobody(error: EngineDied) -> None:
    pass


@atexit.register
def _stop_all() -> None:
    global _process_ends
    _process_ends = True  # a thread that ends from now on is not reported as dead
    threads = [thread for thread in _started if thread._thread.is_alive()]
    for thread in threads:
        thread.stop()
    for thread in threads:
        thread.join()
