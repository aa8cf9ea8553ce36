"""A worker thread of which others can see that it lives and moves."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType

from orpheus_plugin.errors import EngineDied

logger = logging.getLogger(__name__)

STEP_LIMIT_S = 10.0
"""A step that takes longer is taken for a thread that stands still."""

JOIN_S = 5.0
"""How long `join` waits for the step in flight. A thread that stands still is left behind."""


class WorkerThread:
    """A daemon thread that does one thing, in steps: `with thread: ...` around each.

    Args:
        name: of the thread, and of what it does, for messages: "orpheus-codec", "the codec".
        work: returns only when it was told to stop.
        died: called on the thread with what is told to those who wait for it, when an exception of
            any kind ended it.
    """

    def __init__(
        self, name: str, what: str, work: Callable[[], None], died: Callable[[EngineDied], None]
    ) -> None:
        self._what = what
        self._work = work
        self._died = died
        self._error: EngineDied | None = None
        self._step_began: float | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        """Wait for its end, for a while. Blocking; not from the thread itself."""
        if self._thread is threading.current_thread():
            return
        self._thread.join(JOIN_S)
        if self._thread.is_alive():
            logger.error("%s stands still and is left behind", self._what)

    @property
    def failure(self) -> EngineDied | None:
        """Why it works no more; None while it does. From any thread."""
        if self._error is not None:
            return self._error
        if self._thread.ident is not None and not self._thread.is_alive():
            return EngineDied(f"{self._what} has ended")
        began = self._step_began
        if began is not None and time.monotonic() - began > STEP_LIMIT_S:
            return EngineDied(f"{self._what} stands still: a step takes over {STEP_LIMIT_S:g} s")
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
