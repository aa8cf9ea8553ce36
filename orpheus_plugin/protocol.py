"""The native protocol's messages, shared by the server and its client. `docs/protocol.md` is its table for people.

Every websocket message is binary: one MessagePack map with a "type". A receiver ignores fields and types it does not
know, so both ends may be of different versions; a change that breaks this needs a new `PROTOCOL`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

import msgpack

from orpheus_plugin.errors import ERRORS_BY_CODE, BadMessage, InvalidOptions, OrpheusError
from orpheus_plugin.turn import (
    AudioChunk,
    EngineHealth,
    EngineLoad,
    SpeechOptions,
    TurnEnd,
    TurnEvent,
    TurnStats,
    Word,
)

PROTOCOL = 1
PATH = "/v1/turns"
"""Where the server takes native connections."""

WINDOW_S = 30.0
"""Seconds of audio a turn may be sent ahead of what its caller took, unless `open` says otherwise."""

MAX_ID_CHARS = 64
MAX_MESSAGE_BYTES = 64 * 1024
"""Longest message a client may send. A turn's whole text at the default limit fits in one."""

Encoding = Literal["s16le", "mulaw", "alaw"]
ENCODINGS: tuple[Encoding, ...] = ("s16le", "mulaw", "alaw")
SAMPLE_RATES = (24_000, 16_000, 8_000)

Message = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """How a turn's audio travels.

    Attributes:
        encoding: "s16le", or one byte per sample as telephony has it: "mulaw", "alaw".
        sample_rate: 24000 (the model's own), 16000 or 8000.
    """

    encoding: Encoding = "s16le"
    sample_rate: int = 24_000

    def __post_init__(self) -> None:
        if self.encoding not in ENCODINGS:
            raise InvalidOptions(
                f"encoding must be one of {', '.join(ENCODINGS)}, not {self.encoding!r}"
            )
        if isinstance(self.sample_rate, bool) or self.sample_rate not in SAMPLE_RATES:
            raise InvalidOptions(
                f"sample_rate must be one of {SAMPLE_RATES}, not {self.sample_rate!r}"
            )

    @property
    def sample_bytes(self) -> int:
        return 2 if self.encoding == "s16le" else 1


# ---- bytes


# A language model's piece of text may hold half a character (a lone surrogate), whose other half comes with the next.
_HALVES = {"unicode_errors": "surrogatepass"}


def pack(message: Mapping[str, Any]) -> bytes:
    return cast(bytes, msgpack.packb(message, use_bin_type=True, **_HALVES))


def unpack(data: bytes, *, max_bytes: int = MAX_MESSAGE_BYTES) -> Message:
    """One message. Raises BadMessage for anything else, however malformed."""
    if len(data) > max_bytes:
        raise BadMessage(f"a message of {len(data)} bytes; the limit is {max_bytes}")
    try:
        message = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            max_map_len=64,
            max_array_len=4096,
            max_ext_len=0,
            **_HALVES,
        )
    except Exception as error:  # msgpack raises ValueError, its own classes, RecursionError, ...
        raise BadMessage(f"not MessagePack: {type(error).__name__}") from None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise BadMessage('a message is a map with a string under "type"')
    return message


def text_field(message: Message, name: str, *, limit: int | None = None) -> str:
    value = message.get(name)
    if not isinstance(value, str):
        raise BadMessage(f"{message['type']!r} needs a string under {name!r}")
    if limit is not None and not 0 < len(value) <= limit:
        raise BadMessage(f"{name!r} must have 1 to {limit} characters")
    return value


def count_field(message: Message, name: str) -> int:
    value = message.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
        raise BadMessage(f"{message['type']!r} needs a whole number under {name!r}")
    return value


# ---- options, events and errors as maps


def options_to_map(options: SpeechOptions) -> Message:
    default = SpeechOptions()
    return {
        field.name: value
        for field in dataclasses.fields(options)
        if (value := getattr(options, field.name)) != getattr(default, field.name)
    }


def options_from_map(value: object) -> SpeechOptions:
    return _from_map(SpeechOptions, value, "options")


def format_from_map(value: object) -> AudioFormat:
    return _from_map(AudioFormat, value, "format")


def _from_map(kind: type[T], value: object, name: str) -> T:
    if value is None:
        return kind()
    if not isinstance(value, dict):
        raise InvalidOptions(f"{name} must be a map, not {type(value).__name__}")
    known = {field.name: field for field in dataclasses.fields(cast(Any, kind))}
    for key, given in value.items():
        if key not in known:
            raise InvalidOptions(f"unknown {name}: {str(key)[:40]!r}; known are {', '.join(known)}")
        if known[key].type in ("bool", "bool | None") and not isinstance(given, bool | None):
            raise InvalidOptions(f"{key} must be true or false, not {type(given).__name__}")
    return kind(**value)


def stats_to_map(stats: TurnStats) -> Message:
    return dataclasses.asdict(stats)


def stats_from_map(value: object) -> TurnStats:
    return TurnStats(**_known(TurnStats, value if isinstance(value, dict) else {}))


def health_to_map(health: EngineHealth, load: EngineLoad) -> Message:
    return {**dataclasses.asdict(health), "load": dataclasses.asdict(load)}


def health_from_map(value: Message) -> EngineHealth:
    """Raises TypeError when a field is missing."""
    return EngineHealth(**_known(EngineHealth, value))


def load_from_map(value: object) -> EngineLoad:
    return EngineLoad(**_known(EngineLoad, value if isinstance(value, dict) else {}))


def _known(kind: type[Any], message: Message) -> Message:
    """What this version knows of a message; the other end may be of another."""
    return {f.name: message[f.name] for f in dataclasses.fields(kind) if f.name in message}


def event_to_message(turn_id: str, event: TurnEvent) -> Message:
    """An event of a turn as a message; audio as it is, in the model's own format."""
    if isinstance(event, AudioChunk):
        return audio_message(turn_id, event.pcm, event.position, event.utterance)
    if isinstance(event, Word):
        return {"type": "word", "id": turn_id, **dataclasses.asdict(event)}
    return {
        "type": "done",
        "id": turn_id,
        "reason": event.reason,
        "stats": stats_to_map(event.stats),
    }


def audio_message(turn_id: str, data: bytes, position: int, utterance: int) -> Message:
    return {
        "type": "audio",
        "id": turn_id,
        "position": position,
        "utterance": utterance,
        "data": data,
    }


def event_from_message(message: Message) -> TurnEvent | OrpheusError | None:
    """The event a server's message carries; None for messages that are not a turn's."""
    try:
        kind = message["type"]
        if kind == "audio":
            return AudioChunk(message["data"], message["position"], message["utterance"])
        if kind == "word":
            return Word(**_known(Word, message))
        if kind == "done":
            return TurnEnd(message["reason"], stats_from_map(message.get("stats")))
        if kind == "error":
            return error_from_message(message)
    except (KeyError, TypeError):
        raise BadMessage(f"a server's {message.get('type')!r} lacks something") from None
    return None


def error_to_message(error: OrpheusError, turn_id: str | None = None) -> Message:
    return {
        "type": "error",
        "id": turn_id,
        "code": error.code,
        "message": error.message,
        "retryable": error.retryable,
    }


def error_from_message(message: Message) -> OrpheusError:
    """The same class the server raised; an unknown code is a plain OrpheusError."""
    kind = ERRORS_BY_CODE.get(str(message.get("code")), OrpheusError)
    return kind(str(message.get("message") or "the server gave no reason"))
