"""An event loop whose clock jumps to the next timer when there is nothing to do: hours in no time, the same every time."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import time
from collections.abc import Coroutine
from typing import Any, TypeVar
from unittest.mock import patch

T = TypeVar("T")


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """For code that waits for timers only."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_Jumping(self))

    def time(self) -> float:
        return self.now


class _Jumping(selectors.DefaultSelector):
    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        self._loop.now += timeout or 0.0
        return super().select(0)


def run_in_virtual_time(work: Coroutine[Any, Any, T], *, wall_clock: bool = False) -> T:
    """`wall_clock`: `time.time()` goes by the loop's clock too."""
    began = time.time()
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner, contextlib.ExitStack() as patches:
        if wall_clock:
            loop = runner.get_loop()
            patches.enter_context(patch("time.time", lambda: began + loop.time()))
        return runner.run(work)
