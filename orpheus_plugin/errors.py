"""All exceptions of this package.

    OrpheusError
      - InvalidOptions
        - UnknownVoice
      - TextTooLong
      - TurnClosed
      - TurnTimedOut
      - BadMessage
      - ModelNotFound
      - BadCheckpoint
      - Unauthorized
      - AtCapacity
      - ShuttingDown
      - ConnectionFailed
      - ServerNotStarted
      - EngineDied
      - GenerationFailed

Each class has a stable `code`, which is sent over the network and counted in metrics, a kind, and
the HTTP status of an answer that reports it. Servers and adapters translate these attributes; they
have no table of codes. The message says what is wrong and what to do.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import ClassVar


class ErrorKind(Enum):
    """What an error is about."""

    REQUEST = "request"
    """The request: its options or its text. Another request may succeed."""

    SETUP = "setup"
    """The model or the configuration. Every request fails until somebody changes that."""

    KEY = "key"
    """The api_key."""

    BUSY = "busy"
    """The engine takes no more turns at the moment."""

    CONNECTION = "connection"
    """The server cannot be reached."""

    ENGINE = "engine"
    """The engine failed."""


class OrpheusError(Exception):
    """Base class of all exceptions of this package.

    Attributes:
        code: stable machine-readable name, the same in every protocol.
        kind: what the error is about.
        http_status: status of an HTTP answer that reports it.
        retryable: whether the same call, unchanged, may succeed a moment later.
    """

    code: ClassVar[str] = "error"
    kind: ClassVar[ErrorKind] = ErrorKind.ENGINE
    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    @property
    def message(self) -> str:
        """What is wrong and what to do."""
        return str(self)


# ---- the request


class InvalidOptions(OrpheusError, ValueError):
    """An option is unknown, has the wrong type, or is out of range."""

    code = "invalid_options"
    kind = ErrorKind.REQUEST
    http_status = 400


class UnknownVoice(InvalidOptions):
    """The model has no voice of this name."""

    code = "unknown_voice"


class TextTooLong(OrpheusError, ValueError):
    """The text of a turn exceeds the limit. The piece that exceeds it is not spoken."""

    code = "text_too_long"
    kind = ErrorKind.REQUEST
    http_status = 400


class TurnClosed(OrpheusError):
    """Text was pushed into a turn that was ended or cancelled before."""

    code = "turn_closed"
    kind = ErrorKind.REQUEST
    http_status = 409


class TurnTimedOut(OrpheusError):
    """The server ended a turn that waited too long for text or for its reader, or lasted too
    long."""

    code = "timed_out"
    kind = ErrorKind.REQUEST
    http_status = 408


class BadMessage(OrpheusError, ValueError):
    """A message is not a MessagePack map, or a field that its type needs is missing."""

    code = "bad_message"
    kind = ErrorKind.REQUEST
    http_status = 400


# ---- model and configuration


class ModelNotFound(OrpheusError):
    """The model's files are not on this machine, or the hub refused to send them."""

    code = "model_not_found"
    kind = ErrorKind.SETUP
    http_status = 404


class BadCheckpoint(OrpheusError):
    """A model file is damaged, incomplete, or has tensors of the wrong shape."""

    code = "bad_checkpoint"
    kind = ErrorKind.SETUP


class Unauthorized(OrpheusError):
    """The server does not accept the api_key."""

    code = "unauthorized"
    kind = ErrorKind.KEY
    http_status = 401


# ---- capacity


class AtCapacity(OrpheusError):
    """All places are taken: with another turn, those already speaking would have gaps."""

    code = "at_capacity"
    kind = ErrorKind.BUSY
    http_status = 429
    retryable = True


class ShuttingDown(OrpheusError):
    """The server is about to end and takes no new turns."""

    code = "shutting_down"
    kind = ErrorKind.BUSY
    http_status = 503
    retryable = True


# ---- the network


class ConnectionFailed(OrpheusError):
    """A speech server or token server could not be reached, or the connection to it was lost.

    Attributes:
        server_busy: there is a server, but it takes no connections at the moment, because it is
            loading its model, is full, or is slow.
        never_reached: this address has not answered since the program started. A caller with
            another engine should use that one at once.
    """

    code = "connection_failed"
    kind = ErrorKind.CONNECTION
    http_status = 503
    retryable = True

    def __init__(
        self, *args: object, server_busy: bool = False, never_reached: bool = False
    ) -> None:
        super().__init__(*args)
        self.server_busy = server_busy
        self.never_reached = never_reached


class ServerNotStarted(OrpheusError):
    """The speech server of this machine could not be started. The message says where its log is."""

    code = "server_not_started"
    kind = ErrorKind.CONNECTION
    http_status = 503


# ---- the engine


class EngineDied(OrpheusError):
    """The token generator or the codec died during this turn. It is being restarted: try again."""

    code = "engine_died"
    http_status = 503
    retryable = True


class GenerationFailed(OrpheusError):
    """The model produced no usable speech for an utterance: no end, a loop, or malformed tokens."""

    code = "generation_failed"
    retryable = True


ERRORS_BY_CODE: dict[str, type[OrpheusError]] = {
    error.code: error
    for error in list(globals().values())
    if isinstance(error, type) and issubclass(error, OrpheusError)
}


def without_login(text: str) -> str:
    """The text without the login in addresses (https://me:secret@host). For messages and logs."""
    # Greedy up to the last @: a password that was not escaped may contain an @ or a slash.
    return re.sub(r"(^|//)\S*@", r"\1", text)
