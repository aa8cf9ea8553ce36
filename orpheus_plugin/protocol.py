"""The native protocol's messages, shared by the server and its client; see `docs/protocol.md`.

Every websocket message is binary: one MessagePack map with a "type". A receiver ignores fields and
types it does not know, so both ends may be of different versions; a change that breaks this needs a
new `PROTOCOL`.

Packing a piece of audio costs 2 us, reading one 10 us, reading a client's text 0.2 us.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, cast

import msgspec

from orpheus_plugin.errors import ERRORS_BY_CODE, BadMessage, InvalidOptions, OrpheusError
from orpheus_plugin.events import AudioChunk, TurnEnd, TurnEvent, TurnStats
from orpheus_plugin.events import Word as SpokenWord
from orpheus_plugin.options import SpeechOptions
from orpheus_plugin.speech_engine import EngineHealth, EngineLoad

PROTOCOL = 1
PATH = "/v1/turns"
"""Where the server takes native connections."""

WINDOW_S = 30.0
"""Seconds of audio that are sent ahead of what a turn's caller took, unless `open` says
otherwise."""

MAX_ID_CHARS = 64
MAX_MESSAGE_BYTES = 64 * 1024
"""Longest message a client may send. A turn's whole text at the default limit fits in one."""

MAX_OPTIONS_BYTES = 60 * 1024
"""Longest options of a turn."""

Encoding = Literal["s16le", "mulaw", "alaw"]
ENCODINGS: tuple[Encoding, ...] = ("s16le", "mulaw", "alaw")
SAMPLE_RATES = (24_000, 16_000, 8_000)

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


# ---- messages

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_CHARS)]


class _Message(msgspec.Struct, tag_field="type", tag=str.lower, gc=False):
    """A message. Its type is the name of its class in lower case."""


class Open(_Message, omit_defaults=True):
    """A new turn. An error in its Raw fields fails the turn, not the connection."""

    id: Id
    options: msgspec.Raw = msgspec.Raw(b"\x80")
    format: msgspec.Raw = msgspec.Raw(b"\x80")
    window_s: msgspec.Raw = msgspec.Raw(msgspec.msgpack.encode(WINDOW_S))
    max_wait_s: msgspec.Raw = msgspec.Raw(b"\x00")


class Text(_Message):
    id: Id
    text: str


class Flush(_Message):
    id: Id


class End(_Message):
    id: Id


class Cancel(_Message):
    id: Id


class Consumed(_Message):
    id: Id
    samples: Annotated[int, msgspec.Meta(ge=0)]


class Hello(_Message, kw_only=True):
    protocol: int
    version: str
    health: EngineHealth
    load: EngineLoad = EngineLoad()
    voices: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    strict_voices: bool = False
    languages: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    sample_rate: int
    max_text_chars: Annotated[int, msgspec.Meta(ge=1)]
    max_turns_per_connection: int


class Health(_Message):
    health: EngineHealth
    load: EngineLoad = EngineLoad()


class Opened(_Message):
    id: str


class Word(_Message):
    id: str
    text: str
    start_s: float
    end_s: float
    utterance: int
    space_after: bool = True


class Audio(_Message):
    id: str
    position: int
    utterance: int
    data: bytes


class Done(_Message):
    id: str
    reason: Literal["done", "cancelled"]
    stats: TurnStats = msgspec.field(default_factory=TurnStats)


class Error(_Message):
    """The error of a turn, or of the connection if the id is None."""

    id: str | None
    code: str
    message: str
    retryable: bool = False


class Goodbye(_Message):
    pass


ClientMessage = Open | Text | Flush | End | Cancel | Consumed
ServerMessage = Hello | Health | Opened | Word | Audio | Done | Error | Goodbye


class _Unknown(msgspec.Struct):
    type: str


_encoder = msgspec.msgpack.Encoder()
_of_client = msgspec.msgpack.Decoder(ClientMessage)
_of_server = msgspec.msgpack.Decoder(ServerMessage)
_of_anyone = msgspec.msgpack.Decoder(_Unknown)
_NAMES = {
    decoder: {kind.__struct_config__.tag for kind in union.__args__}
    for decoder, union in ((_of_client, ClientMessage), (_of_server, ServerMessage))
}


def pack(message: _Message | Mapping[str, Any] | float) -> bytes:
    """A message, or a value of one of its Raw fields."""
    return _encoder.encode(message)


def from_client(data: bytes, *, max_bytes: int = MAX_MESSAGE_BYTES) -> ClientMessage | None:
    """One message of a client; None if its type is not known. Raises BadMessage."""
    return cast("ClientMessage | None", _read(_of_client, data, max_bytes))


def from_server(data: bytes, *, max_bytes: int) -> ServerMessage | None:
    """One message of a server; None if its type is not known. Raises BadMessage."""
    return cast("ServerMessage | None", _read(_of_server, data, max_bytes))


def _read(decoder: msgspec.msgpack.Decoder[Any], data: bytes, max_bytes: int) -> object:
    if len(data) > max_bytes:
        raise BadMessage(f"a message of {len(data)} bytes; the limit is {max_bytes}")
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        try:
            if _of_anyone.decode(data).type not in _NAMES[decoder]:
                return None
        except (ValueError, RecursionError):
            pass
        raise BadMessage(f"not a message of this protocol: {error}") from None
    except (ValueError, RecursionError) as error:  # malformed, or text that is not UTF-8
        raise BadMessage(f"not MessagePack: {type(error).__name__}") from None


# ---- options, events and errors


def options_to_map(options: SpeechOptions) -> dict[str, Any]:
    """The options that differ from the default."""
    default = SpeechOptions()
    return {
        field.name: dict(value) if isinstance(value, Mapping) else value
        for field in dataclasses.fields(options)
        if (value := getattr(options, field.name)) != getattr(default, field.name)
    }


def opening(turn_id: str, options: SpeechOptions, max_wait_s: float) -> Open:
    """Raises InvalidOptions if the options do not fit into a message: that would end the connection
    of other turns, too."""
    packed = pack(options_to_map(options))
    if len(packed) > MAX_OPTIONS_BYTES:
        raise InvalidOptions(
            f"a turn's options have at most {MAX_OPTIONS_BYTES} bytes, these {len(packed)}; give a"
            " long table of pronunciations to the server (serve --pronunciations)"
        )
    return Open(turn_id, options=msgspec.Raw(packed), max_wait_s=msgspec.Raw(pack(max_wait_s)))


def read_options(raw: msgspec.Raw) -> SpeechOptions:
    """Raises InvalidOptions."""
    return _read_fields(raw, SpeechOptions, "options")


def read_format(raw: msgspec.Raw) -> AudioFormat:
    """Raises InvalidOptions."""
    return _read_fields(raw, AudioFormat, "format")


def read_seconds(raw: msgspec.Raw, name: str, low: float, high: float) -> float | None:
    """A number, or None. Raises InvalidOptions."""
    try:
        value = msgspec.msgpack.decode(raw, type=float | None)
    except ValueError:
        value = float("nan")
    if value is not None and not low <= value <= high:
        raise InvalidOptions(f"{name} must be a number from {low:g} to {high:g}, or nil")
    return value


def _read_fields(raw: msgspec.Raw, kind: type[T], name: str) -> T:
    known = {field.name for field in dataclasses.fields(cast(Any, kind))}
    try:
        value = msgspec.msgpack.decode(raw, type=dict[str, Any] | None) or {}
        if unknown := next((key for key in value if key not in known), None):
            raise InvalidOptions(
                f"unknown {name}: {unknown[:40]!r}; known are {', '.join(sorted(known))}"
            )
        return msgspec.convert(value, kind)
    except InvalidOptions:
        raise
    except msgspec.ValidationError as error:
        raise InvalidOptions(f"{name}: {error}") from None
    except (ValueError, RecursionError):
        raise InvalidOptions(f"{name} must be a map") from None


def event_to_message(turn_id: str, event: TurnEvent) -> ServerMessage:
    """An event of a turn as a message; audio in the model's own format."""
    if isinstance(event, AudioChunk):
        return Audio(turn_id, event.position, event.utterance, event.pcm)
    if isinstance(event, SpokenWord):
        return Word(
            turn_id, event.text, event.start_s, event.end_s, event.utterance, event.space_after
        )
    return Done(turn_id, event.reason, event.stats)


def event_of(message: ServerMessage) -> TurnEvent | OrpheusError | None:
    """The event a server's message carries; None for messages that are not a turn's."""
    match message:
        case Audio(_, position, utterance, data):
            return AudioChunk(data, position, utterance)
        case Word(_, text, start_s, end_s, utterance, space_after):
            return SpokenWord(text, start_s, end_s, utterance, space_after)
        case Done(_, reason, stats):
            return TurnEnd(reason, stats)
        case Error(_, code, text):
            # The same class the server raised; an unknown code is a plain OrpheusError.
            return ERRORS_BY_CODE.get(code, OrpheusError)(text or "the server gave no reason")
    return None


def error_message(error: OrpheusError, turn_id: str | None = None) -> Error:
    return Error(turn_id, error.code, error.message, error.retryable)


class SurrogateJoiner:
    """Joins the halves of surrogate pairs that a language model's pieces of text may end and begin
    with. UTF-8, in which messages are written, has no halves."""

    def __init__(self) -> None:
        self._half = ""

    def push(self, piece: str) -> str:
        """The piece with what was held back before it. A half without its other half is left
        out."""
        if piece.isascii() and not self._half:
            return piece
        text = self._half + piece
        self._half = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
        if self._half:
            text = text[:-1]
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "ignore")
