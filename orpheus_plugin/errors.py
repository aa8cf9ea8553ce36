"""Everything this package raises on purpose.

Each error has a stable `code` (it travels over the wire and into metrics) and a message that says what to do.
"""

from __future__ import annotations

import re
from typing import ClassVar


class OrpheusError(Exception):
    """Base of all errors of this package.

    Attributes:
        code: stable machine-readable name; the same on every protocol.
        retryable: whether the same call may succeed a moment later, unchanged.
    """

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False

    @property
    def message(self) -> str:
        return str(self)


class InvalidOptions(OrpheusError, ValueError):
    """An option is out of its range, of the wrong type, or unknown."""

    code = "invalid_options"


class UnknownVoice(InvalidOptions):
    """The model has no voice of this name."""

    code = "unknown_voice"


class TextTooLong(OrpheusError, ValueError):
    """A turn's text passed the limit; nothing of the piece that passed it is spoken."""

    code = "text_too_long"


class TurnClosed(OrpheusError):
    """Text was pushed into a turn that has been ended or cancelled."""

    code = "turn_closed"


class AtCapacity(OrpheusError):
    """Another turn would make those already speaking miss real time."""

    code = "at_capacity"
    retryable = True


class EngineDied(OrpheusError):
    """The token generator or the codec died under this turn. It is being restarted: try again."""

    code = "engine_died"
    retryable = True


class GenerationFailed(OrpheusError):
    """The model produced no usable speech for an utterance (runaway, loop or malformed tokens)."""

    code = "generation_failed"
    retryable = True


class ModelNotFound(OrpheusError):
    """Model files are not on this machine, or the hub refused them."""

    code = "model_not_found"


class BadCheckpoint(OrpheusError):
    """Model files are there but cannot be what they claim: corrupt, incomplete or of another shape."""

    code = "bad_checkpoint"


class ConnectionFailed(OrpheusError):
    """A speech server or token server could not be reached, or the connection broke."""

    code = "connection_failed"
    retryable = True


class BadMessage(OrpheusError, ValueError):
    """A message is not MessagePack, not a map, or lacks what its type needs."""

    code = "bad_message"


class Unauthorized(OrpheusError):
    """The server wants another key than the one it was given."""

    code = "unauthorized"


class TurnTimedOut(OrpheusError):
    """The server ended a turn that waited for text, or for its reader, or lasted, longer than it allows."""

    code = "timed_out"


class ShuttingDown(OrpheusError):
    """The server takes no new turns because it is about to end."""

    code = "shutting_down"
    retryable = True


class ServerNotStarted(OrpheusError):
    """The speech server of this machine could not be started; the message says where its log is."""

    code = "server_not_started"


ERRORS_BY_CODE: dict[str, type[OrpheusError]] = {
    kind.code: kind
    for kind in (
        OrpheusError,
        InvalidOptions,
        UnknownVoice,
        TextTooLong,
        TurnClosed,
        AtCapacity,
        EngineDied,
        GenerationFailed,
        ModelNotFound,
        BadCheckpoint,
        ConnectionFailed,
        BadMessage,
        Unauthorized,
        TurnTimedOut,
        ShuttingDown,
        ServerNotStarted,
    )
}


def without_login(text: str) -> str:
    """The text without what stands before an address' host: https://me:secret@host. For messages and logs."""
    # Greedy up to the last @: a password that was not escaped may hold an @, or a slash.
    return re.sub(r"(^|//)\S*@", r"\1", text)
