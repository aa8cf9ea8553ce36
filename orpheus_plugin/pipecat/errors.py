"""What Pipecat is told when speech fails, and when a service that keeps failing is written off."""

from __future__ import annotations

import time

from pipecat.frames.frames import ErrorFrame
from pipecat.utils.errors import ErrorCategory

from orpheus_plugin.errors import EngineDied, ErrorKind, OrpheusError

_CATEGORIES = {
    # A request was wrong once; the service is as healthy as before.
    ErrorKind.REQUEST: ErrorCategory.APPLICATION,
    ErrorKind.SETUP: ErrorCategory.INVALID_REQUEST,
    ErrorKind.KEY: ErrorCategory.AUTHENTICATION,
    ErrorKind.BUSY: ErrorCategory.RATE_LIMIT,
    ErrorKind.CONNECTION: ErrorCategory.CONNECTIVITY,
    ErrorKind.ENGINE: ErrorCategory.SERVER,
}
"""Authentication and invalid request are permanent: Pipecat gives such a service no more work."""


def category_of(error: Exception) -> ErrorCategory | None:
    """Why speech failed, in Pipecat's words; None for errors that are not this package's."""
    return _CATEGORIES[error.kind] if isinstance(error, OrpheusError) else None


class Failures:
    """The failed contexts of one service, and since when its engine is gone.

    Args:
        unusable_after_s: an engine is given up when replies have failed, because it is gone, for so
            long.
    """

    def __init__(self, unusable_after_s: float) -> None:
        self._unusable_after_s = unusable_after_s
        self._gone_since: float | None = None
        self._frames: dict[int, str] = {}  # error frames on their way, and the contexts they are of
        self._unspoken: set[str] = set()

    def frame(self, error: Exception, context_id: str) -> ErrorFrame:
        """For a context's queue: what comes after it in the context was not said."""
        frame = ErrorFrame(error=f"could not speak: {error}", exception=error)
        self._frames[frame.id] = context_id
        return frame

    def leaves(self, frame: ErrorFrame) -> bool:
        """An error frame leaves the service. Returns whether the engine has been gone for too long
        by now."""
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
        self._gone_since = None  # when it is back, it begins anew
        return True

    def audio(self, context_id: str) -> None:
        """Something is said again."""
        self._gone_since = None
        self._unspoken.discard(context_id)

    def leave_unspoken(self, context_id: str) -> None:
        self._unspoken.add(context_id)

    def unspoken(self, context_id: str | None) -> bool:
        """Whether the text that now leaves a context was never said."""
        return context_id in self._unspoken

    def forget(self, context_id: str) -> None:
        """The context is over."""
        self._unspoken.discard(context_id)
        self._frames = {frame: of for frame, of in self._frames.items() if of != context_id}
