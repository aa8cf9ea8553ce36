"""A reply over several turns. The adapters' use of it is tested in their own suites."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orpheus_plugin.errors import AtCapacity, EngineDied
from orpheus_plugin.events import AudioChunk, TurnEnd, Word
from orpheus_plugin.reply import Reply, ReplyEvent, TurnTexts
from tests.livekit.tones import WORD_S, ToneEngine


def divided(pieces: list[str], max_chars: int) -> list[str]:
    """The texts of the turns."""
    texts, turns = TurnTexts(), [""]
    texts.limit(max_chars)
    for piece in pieces:
        first, *more = texts.push(piece)
        turns = [*turns[:-1], turns[-1] + first, *more]
    if held := texts.flush():
        first, *more = held
        turns = [*turns[:-1], turns[-1] + first, *more]
    return turns


async def said(reply: Reply) -> list[ReplyEvent]:
    async with asyncio.timeout(10):
        return [event async for event in reply.events()]


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    ("text", "turns"),
    [
        ("Short.", ["Short."]),
        ("One two three up. Four five.", ["One two three up.", " Four five."]),
        ('He said "one two". Then more.', ['He said "one two".', " Then more."]),
        ("One two three fours five six", ["One two three fours", " five six"]),
        ("One.\nTwo three fou\nFive six seven", ["One.\nTwo three fou\n", "Five six seven"]),
        ("a" * 45, ["a" * 20, "a" * 20, "a" * 5]),
        (
            "一二三四五六七八九十一二三四五六七。八九",
            ["一二三四五六七八九十一二三四五六七。", "八九"],
        ),
        ("One <think>" + "x" * 90 + ". </think>two.", ["One two."]),
    ],
)
def test_turns_end_after_a_sentence_or_between_words(
    text: str, turns: list[str], size: int
) -> None:
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    assert divided(pieces, 20) == turns


@given(st.lists(st.text(alphabet="ab .!\n<,", max_size=40), max_size=20), st.integers(1, 60))
def test_nothing_is_lost_and_no_turn_takes_too_much(pieces: list[str], max_chars: int) -> None:
    turns = divided(pieces, max_chars)
    assert "".join(turns) == "".join(pieces)
    assert all(len(turn) <= max_chars for turn in turns)
    assert all(turns[:-1])


async def test_words_and_audio_continue_where_the_turn_before_ended() -> None:
    engine = ToneEngine(max_chars=20)
    reply = Reply(engine.open_turn)
    reply.push_text("One two three four. Five six seven. Eight.")
    reply.end()
    events = await said(reply)
    words = [event for event in events if isinstance(event, Word)]
    assert " ".join(word.text for word in words) == "One two three four. Five six seven. Eight."
    assert [word.start_s for word in words] == pytest.approx([n * WORD_S for n in range(8)])
    assert reply.audio_s == pytest.approx(8 * WORD_S)
    assert len(engine.opened) == sum(isinstance(event, TurnEnd) for event in events) == 3


async def test_text_with_nothing_to_speak_gives_a_short_silence() -> None:
    for text in ("", "..."):
        reply = Reply(ToneEngine().open_turn)
        reply.push_text(text)
        reply.end()
        [chunk] = [event for event in await said(reply) if isinstance(event, AudioChunk)]
        assert set(chunk.pcm) == {0}


async def test_after_a_failed_turn_the_reply_continues() -> None:
    engine = ToneEngine(failures=[EngineDied("dead")])
    reply = Reply(engine.open_turn)
    reply.push_text("This is lost. ")
    reply.next_turn()
    reply.push_text("This is not.")
    reply.end()
    events = await said(reply)
    assert [type(event) for event in events if isinstance(event, Exception)] == [EngineDied]
    assert " ".join(event.text for event in events if isinstance(event, Word)) == "This is not."


async def test_a_refused_reply_does_not_begin_in_the_middle() -> None:
    engine = ToneEngine(refusals=[AtCapacity("full")])
    reply = Reply(engine.open_turn)
    events = asyncio.create_task(said(reply))
    reply.push_text("The beginning has no place. ")
    await asyncio.sleep(0.05)
    reply.push_text("So this is not said.")
    reply.end()
    assert [type(event) for event in await events] == [AtCapacity]
    assert reply.refused
    assert engine.opened == []


async def test_a_reply_can_be_freed_without_its_iterator() -> None:
    engine = ToneEngine(max_chars=20)
    reply = Reply(engine.open_turn)
    reply.push_text("One two three four. Five six seven. Eight.")
    await asyncio.sleep(0)
    for turn in reply.abandon():
        await turn.cancel()
    assert not engine.live
