"""Places for turns, and the turns that wait in line for one."""

from __future__ import annotations

import threading
from collections.abc import Callable

from orpheus_plugin.errors import AtCapacity


class Places:
    """Turns that have a place, and a line of turns that wait, first come first served. A call costs
    a few microseconds.

    `enter` may be called from any thread; `leave` and `fill`, which admit others, from the engine's
    loop only.

    Args:
        limit: gives the present number of places. A turn keeps its place when the number falls.
    """

    def __init__(self, limit: Callable[[], int]) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._taken: set[str] = set()
        self._line: dict[str, Callable[[], None]] = {}

    @property
    def taken(self) -> int:
        return len(self._taken)

    @property
    def waiting(self) -> int:
        return len(self._line)

    def enter(self, turn_id: str, admit: Callable[[], None], *, may_wait: bool) -> None:
        """Take a place or the end of the line. `admit` is called when the turn has a place, now or
        later.

        Raises AtCapacity when there is no place and the turn may not wait.
        """
        with self._lock:
            limit = self._limit()
            if len(self._taken) < limit and not self._line:
                self._taken.add(turn_id)
                admit()
            elif may_wait:
                self._line[turn_id] = admit
            else:
                raise AtCapacity(
                    f"all {limit} turns of this engine are speaking; try again, let turns wait"
                    " (max_wait_s), use another server, or raise max_turns if the machine is fast"
                    " enough"
                )

    def leave(self, turn_id: str) -> None:
        """Leave the place, or the line. Idempotent."""
        with self._lock:
            self._taken.discard(turn_id)
            self._line.pop(turn_id, None)
        self.fill()

    def fill(self) -> None:
        """Give free places to the turns that have waited longest."""
        with self._lock:
            while self._line and len(self._taken) < self._limit():
                turn_id = next(iter(self._line))
                self._taken.add(turn_id)
                self._line.pop(turn_id)()
