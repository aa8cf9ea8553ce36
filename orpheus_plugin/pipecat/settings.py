"""What can be changed while a pipeline runs, and how Pipecat is told what went wrong."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipecat.services.settings import TTSSettings
from pipecat.utils.errors import ErrorCategory
from pipecat.utils.types import NOT_GIVEN, NotGiven, is_given

from orpheus_plugin.errors import ErrorKind, OrpheusError
from orpheus_plugin.turn import SpeechOptions


@dataclass
class OrpheusTTSSettings(TTSSettings):
    """What can change while the pipeline runs. A field that is not given keeps its value; None is the model's default.

    Parameters:
        temperature: at least 0; 0 always takes the likeliest token.
        top_p: above 0, at most 1.
        repetition_penalty: at least 1; Orpheus 3B needs 1.1 or more.
        seed: makes speech repeatable on the same engine.
    """

    temperature: float | NotGiven | None = field(default_factory=lambda: NOT_GIVEN)
    top_p: float | NotGiven | None = field(default_factory=lambda: NOT_GIVEN)
    repetition_penalty: float | NotGiven | None = field(default_factory=lambda: NOT_GIVEN)
    seed: int | NotGiven | None = field(default_factory=lambda: NOT_GIVEN)


OPTIONS = ("voice", "temperature", "top_p", "repetition_penalty", "seed")
"""Settings a turn is opened with."""

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


def speech_options(settings: OrpheusTTSSettings) -> SpeechOptions:
    """The options of a turn. Raises InvalidOptions."""
    given = {name: getattr(settings, name) for name in OPTIONS}
    return SpeechOptions(**{name: value for name, value in given.items() if is_given(value)})


def category_of(error: Exception) -> ErrorCategory | None:
    """Why speech failed, in Pipecat's words; None for errors that are not this package's."""
    if not isinstance(error, OrpheusError):
        return None
    return _CATEGORIES[error.kind]
