"""The errors that Pipecat gets when speech fails, and when a service that keeps failing becomes
unusable."""

from __future__ import annotations

import time

from pipecat.frames.frames import ErrorFrame
from pipecat.utils.errors import ErrorCategory

from orpheus_plugin.errors import EngineDied, ErrorKind, OrpheusError

_CATEGORIES = {
    # One request was wrong; the service still works.
    ErrorKind.REQUEST: ErrorCategory.APPLICATION,
    ErrorKind.SETUP: ErrorCategory.INVALID_REQUEST,
    ErrorKind.KEY: ErrorCategory.AUTHENTICATION,
    ErrorKind.BUSY: ErrorCategory.RATE_LIMIT,
    ErrorKind.CONNECTION: ErrorCategory.CONNECTIVITY,
    ErrorKind.ENGINE: ErrorCategory.SERVER,
}
"""Authentication and invalid request are permanent: Pipecat stops using such a service."""


def category_of(error: Exception) -> ErrorCategory | None:
    """Pipecat's category of an error; None for errors that are not this package's."""
    return _CATEGORIES[error.kind] if isinstance(error, OrpheusError) else None


class Failures:
    """The failed contexts of one service, and since when its engine has been gone.

    Args:
        unusable_after_s: a service becomes unusable when its replies have failed for so long
            because its engine is gone.
    """

    def __init__(self, unusable_after_s: float) -> None:
        self._unusable_after_s = unusable_after_s
        self._gone_since: float | None = None
        self._frames: dict[int, str] = {}  # error frames on their way, and their contexts
        self._unspoken: set[str] = set()

    def frame(self, error: Exception, context_id: str) -> ErrorFrame:
        """An error frame for a context's queue: text after it in the context was not spoken."""
        frame = ErrorFrame(error=f"could not speak: {error}", exception=error)
        self._frames[frame.id] = context_id
        return frame

    def leaves(self, frame: ErrorFrame) -> bool:
        """An error frame leaves the service. Returns whether the engine has been gone for too
        long."""
        context_id = self._frames.pop(frame.id, None)
        if context_id is None:
            return False
        self._unspoken.add(context_id)
        error = frame.exception
        gone = isinstance(error, EngineDied) or (
            isinstance(error, OrpheusError) and error.kind is ErrorKind.CONNECTION
        )
        if not gone:
            return False
        now = time.monotonic()
        if self._gone_since is None:
            self._gone_since = now
        if now - self._gone_since < self._unusable_after_s:
            return False
        self._gone_since = None  # counts again when the engine is back
        return True

    def audio(self, context_id: str) -> None:
        """The context has audio again."""
        self._gone_since = None
        self._unspoken.discard(context_id)

    def leave_unspoken(self, context_id: str) -> None:
        self._unspoken.add(context_id)

    def unspoken(self, context_id: str | None) -> bool:
        """Whether the text that leaves a context now was not spoken."""
        return context_id in self._unspoken

    def forget(self, context_id: str) -> None:
        """The context has ended."""
        self._unspoken.discard(context_id)
        self._frames = {frame: of for frame, of in self._frames.items() if of != context_id}
