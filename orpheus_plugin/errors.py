"""Everything this package raises on purpose.

Each error has a stable `code` (it travels over the wire and into metrics) and a message that says
what to do. Its class also holds its HTTP status and its kind. Servers and adapters translate these;
they have no table of codes.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import ClassVar


class ErrorKind(Enum):
    """What an error is about."""

    REQUEST = "request"
    """What was asked for. Another request may succeed."""

    SETUP = "setup"
    """The model or how the engine is set up. It fails until somebody changes that."""

    KEY = "key"
    """The api_key."""

    BUSY = "busy"
    """The engine takes no more turns at the moment."""

    CONNECTION = "connection"
    """The server cannot be reached."""

    ENGINE = "engine"
    """The engine failed."""


class OrpheusError(Exception):
    """Base of all errors of this package.

    Attributes:
        code: stable machine-readable name; the same on every protocol.
        kind: what it is about.
        http_status: the status of an HTTP answer that reports it.
        retryable: whether the same call may succeed a moment later, unchanged.
    """

    code: ClassVar[str] = "error"
    kind: ClassVar[ErrorKind] = ErrorKind.ENGINE
    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    @property
    def message(self) -> str:
        return str(self)


class InvalidOptions(OrpheusError, ValueError):
    """An option is out of its range, of the wrong type, or unknown."""

    code = "invalid_options"
    kind = ErrorKind.REQUEST
    http_status = 400


class UnknownVoice(InvalidOptions):
    """The model has no voice of this name."""

    code = "unknown_voice"


class TextTooLong(OrpheusError, ValueError):
    """A turn's text is longer than the limit; the piece that exceeds it is not spoken."""

    code = "text_too_long"
    kind = ErrorKind.REQUEST
    http_status = 400


class TurnClosed(OrpheusError):
    """Text was pushed into a turn that has been ended or cancelled."""

    code = "turn_closed"
    kind = ErrorKind.REQUEST
    http_status = 409


class AtCapacity(OrpheusError):
    """Another turn would make those already speaking miss real time."""

    code = "at_capacity"
    kind = ErrorKind.BUSY
    http_status = 429
    retryable = True


class EngineDied(OrpheusError):
    """The token generator or the codec died during this turn. It is being restarted: try again."""

    code = "engine_died"
    http_status = 503
    retryable = True


class GenerationFailed(OrpheusError):
    """The model produced no usable speech for an utterance (runaway, loop or malformed tokens)."""

    code = "generation_failed"
    retryable = True


class ModelNotFound(OrpheusError):
    """Model files are not on this machine, or the hub refused them."""

    code = "model_not_found"
    kind = ErrorKind.SETUP
    http_status = 404


class BadCheckpoint(OrpheusError):
    """Model files are corrupt, incomplete or of the wrong shape."""

    code = "bad_checkpoint"
    kind = ErrorKind.SETUP


class ConnectionFailed(OrpheusError):
    """A speech server or token server could not be reached, or the connection broke.

    Attributes:
        never_reached: this address has not answered since the program started. A caller with
            another engine then uses that one.
    """

    code = "connection_failed"
    kind = ErrorKind.CONNECTION
    http_status = 503
    retryable = True

    def __init__(self, *args: object, never_reached: bool = False) -> None:
        super().__init__(*args)
        self.never_reached = never_reached


class BadMessage(OrpheusError, ValueError):
    """A message is not MessagePack, not a map, or lacks what its type needs."""

    code = "bad_message"
    kind = ErrorKind.REQUEST
    http_status = 400


class Unauthorized(OrpheusError):
    """The server does not accept the api_key."""

    code = "unauthorized"
    kind = ErrorKind.KEY
    http_status = 401


class TurnTimedOut(OrpheusError):
    """The server ended a turn that waited too long for text or for its reader, or lasted too
    long."""

    code = "timed_out"
    kind = ErrorKind.REQUEST
    http_status = 408


class ShuttingDown(OrpheusError):
    """The server takes no new turns because it is about to end."""

    code = "shutting_down"
    kind = ErrorKind.BUSY
    http_status = 503
    retryable = True


class ServerNotStarted(OrpheusError):
    """The speech server of this machine could not be started; the message says where its log is."""

    code = "server_not_started"
    kind = ErrorKind.CONNECTION
    http_status = 503


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
    """The text without the login in addresses (https://me:secret@host). For messages and logs."""
    # Greedy up to the last @: a password that was not escaped may hold an @, or a slash.
    return re.sub(r"(^|//)\S*@", r"\1", text)
