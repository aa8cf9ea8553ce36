"""An event loop whose clock jumps to the next timer when there is nothing to do, so that hours take
no time and every run is the same."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import selectors
import time
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar
from unittest.mock import patch

P = ParamSpec("P")
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
    """`wall_clock`: the clocks of `time` go by the loop's clock too."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner, contextlib.ExitStack() as patches:
        if wall_clock:
            loop, began, up = runner.get_loop(), time.time(), time.monotonic()
            for clock, now in (
                ("time.time", lambda: began + loop.time()),
                ("time.monotonic", lambda: up + loop.time()),
                ("time.monotonic_ns", lambda: int(1e9 * (up + loop.time()))),
            ):
                patches.enter_context(patch(clock, now))
        return runner.run(work)


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """For an async test: it runs by the loop's clock, `time`'s too."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        run_in_virtual_time(test(*args, **kwargs), wall_clock=True)

    return run
