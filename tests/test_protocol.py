"""Messages of the native protocol: they survive the wire, malformed ones raise, unknown ones are
ignored."""

from __future__ import annotations

import msgspec
import pytest

from orpheus_plugin import protocol
from orpheus_plugin.errors import AtCapacity, BadMessage, InvalidOptions, OrpheusError
from orpheus_plugin.events import AudioChunk, TurnEnd, TurnStats, Word
from orpheus_plugin.options import SpeechOptions

LIMIT = protocol.MAX_MESSAGE_BYTES


def test_options_survive_the_wire() -> None:
    options = SpeechOptions(voice="leo", seed=3, pronunciations={"Nguyen": "win"})
    read = protocol.from_client(protocol.pack(protocol.opening("a", options, 2.0)))
    assert isinstance(read, protocol.Open)
    assert protocol.read_options(read.options) == options
    assert protocol.read_seconds(read.max_wait_s, "max_wait_s", 0, 10) == 2.0
    assert protocol.read_format(read.format) == protocol.AudioFormat()


@pytest.mark.parametrize(
    "event",
    [
        AudioChunk(b"\x01\x02", 7, 1),
        Word("Hello,", 0.5, 0.9, 1, False),
        TurnEnd("done", TurnStats(text_chars=3, ttfa_s=0.1)),
    ],
)
def test_events_survive_the_wire(event: AudioChunk | Word | TurnEnd) -> None:
    packed = protocol.pack(protocol.event_to_message("a", event))
    message = protocol.from_server(packed, max_bytes=LIMIT)
    assert message is not None
    assert protocol.event_of(message) == event


def test_errors_keep_their_class_over_the_wire() -> None:
    for error, kind in ((AtCapacity("full"), AtCapacity), (OrpheusError("odd"), OrpheusError)):
        packed = protocol.pack(protocol.error_message(error, "a"))
        message = protocol.from_server(packed, max_bytes=LIMIT)
        assert message is not None
        read = protocol.event_of(message)
        assert type(read) is kind
        assert str(read) == str(error)
    unknown = protocol.pack({"type": "error", "id": "a", "code": "of_tomorrow", "message": "x"})
    message = protocol.from_server(unknown, max_bytes=LIMIT)
    assert message is not None
    assert type(protocol.event_of(message)) is OrpheusError


def test_unknown_types_and_fields_are_ignored() -> None:
    assert protocol.from_client(protocol.pack({"type": "dance", "id": 3})) is None
    message = protocol.from_client(protocol.pack({"type": "end", "id": "a", "how": "softly"}))
    assert message == protocol.End("a")


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"\xc1",
        protocol.pack({"type": "end"}),
        protocol.pack({"type": "end", "id": ""}),
        protocol.pack({"type": "consumed", "id": "a", "samples": -1}),
        protocol.pack({"type": "consumed", "id": "a", "samples": 1.5}),
        b"\x91" * 10_000,
        b"\0" * (LIMIT + 1),
    ],
)
def test_malformed_messages_are_bad_messages(wrong: bytes) -> None:
    with pytest.raises(BadMessage):
        protocol.from_client(wrong)


@pytest.mark.parametrize(
    "hello",
    [
        {"type": "hello"},
        {"type": "hello", "protocol": "x", "version": 1},
        {"type": "hello", "protocol": 1, "version": "1", "health": 5},
        {"type": "hello", "protocol": 1, "version": "1", "voices": "tara"},
    ],
)
def test_a_hostile_hello_is_a_bad_message(hello: dict[str, object]) -> None:
    with pytest.raises(BadMessage):
        protocol.from_server(protocol.pack(hello), max_bytes=LIMIT)


def test_options_too_long_for_a_message_are_refused_before_they_are_sent() -> None:
    table = {f"word{number}": "x" * 100 for number in range(1_000)}
    with pytest.raises(InvalidOptions, match="--pronunciations"):
        protocol.opening("a", SpeechOptions(pronunciations=table), 0.0)


def test_halves_of_surrogate_pairs_are_joined() -> None:
    halves = protocol.SurrogateJoiner()
    pieces = ["Hello \ud83d", "\ude00 there", "\udc00.", " \ud83d", "x", "é"]
    assert "".join(map(halves.push, pieces)) == "Hello 😀 there. xé"


def test_a_wrong_field_is_named() -> None:
    raw = msgspec.Raw(protocol.pack({"temperature": "hot"}))
    with pytest.raises(InvalidOptions, match="temperature"):
        protocol.read_options(raw)
