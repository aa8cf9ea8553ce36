"""How much of a reply is held back, so that its listener does not run dry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from orpheus_plugin.engine.prebuffer import AGAIN_S, REMEMBERED, Prebuffer
from orpheus_plugin.errors import EngineDied
from orpheus_plugin.turn import SAMPLE_RATE, AudioChunk, TurnEnd, TurnEvent, Word
from tests.support.virtual_time import run_in_virtual_time

CHUNK_S = 0.1


def chunk(number: int, utterance: int = 0) -> AudioChunk:
    return AudioChunk(bytes(int(2 * CHUNK_S * SAMPLE_RATE)), number, utterance)


def listen(
    prebuffer: Prebuffer,
    waits: Sequence[float | TurnEvent | Exception],
    lead_s: float = 0.0,
) -> tuple[list[float], list[TurnEvent]]:
    """Chunks of 0.1 s, each after a wait, before a listener who plays at once.

    Returns the silences within their speech, and the events as they came.
    """

    async def events() -> AsyncIterator[TurnEvent]:
        for number, wait in enumerate(waits):
            if isinstance(wait, Exception):
                raise wait
            if isinstance(wait, float):
                await asyncio.sleep(wait)
                yield chunk(number)
            else:
                yield wait

    async def play() -> tuple[list[float], list[TurnEvent]]:
        now = asyncio.get_running_loop().time
        until: float | None = None
        silences: list[float] = []
        async for event in prebuffer.pace(events(), lambda: lead_s):
            came.append(event)
            if isinstance(event, AudioChunk):
                if until is not None and now() > until + 1e-6:
                    silences.append(now() - until)
                until = max(until or 0.0, now()) + event.duration_s
        return silences, came

    came: list[TurnEvent] = []
    return run_in_virtual_time(play())


SLOW_START = [0.3, 0.0, 0.25, *[0.08] * 20]
"""Two chunks at once, then a hiccup of 0.15 s, then 1.25 seconds of audio a second."""


def test_a_hiccup_at_the_beginning_is_not_heard() -> None:
    silences, events = listen(Prebuffer(), SLOW_START)
    assert silences == []
    assert [event.position for event in events if isinstance(event, AudioChunk)] == list(range(23))


def test_what_the_last_replies_needed_is_held_back_and_no_more() -> None:
    prebuffer = Prebuffer()
    listen(prebuffer, [0.3, *[0.01] * 20])  # an engine ten times as fast as speech
    assert prebuffer.size_s == pytest.approx(prebuffer.grain_s + 0.01)
    listen(prebuffer, SLOW_START)
    assert prebuffer.size_s > 0.15
    for _ in range(REMEMBERED):
        listen(prebuffer, [0.3, *[0.01] * 20])
    assert prebuffer.size_s < 0.1


def test_a_fast_engine_waits_for_nothing() -> None:
    prebuffer = Prebuffer()
    prebuffer.learn(0.0)

    async def first() -> float:
        async def events() -> AsyncIterator[TurnEvent]:
            yield chunk(0)
            await asyncio.sleep(10.0)
            yield chunk(1)

        async for _ in prebuffer.pace(events(), lambda: 0.0):
            break
        return asyncio.get_running_loop().time()

    assert run_in_virtual_time(first()) == 0.0


def test_an_engine_slower_than_speech_is_not_waited_for_beyond_reason() -> None:
    prebuffer = Prebuffer()
    for _ in range(3):
        silences, _ = listen(prebuffer, [0.2] * 30)
        assert prebuffer.size_s <= prebuffer.most_s
    # Gaps that are worth one, instead of one before every chunk.
    assert all(gap >= AGAIN_S - 1e-6 for gap in silences)


def test_a_short_answer_is_not_held_back_for_longer_than_its_prebuffer() -> None:
    """The language model goes on much later; nothing says so when the first sentence is over."""

    async def first() -> float:
        async def events() -> AsyncIterator[TurnEvent]:
            yield chunk(0)
            await asyncio.sleep(10.0)
            yield chunk(1, utterance=1)

        async for _ in Prebuffer().pace(events(), lambda: 0.0):
            break
        return asyncio.get_running_loop().time()

    assert run_in_virtual_time(first()) == pytest.approx(Prebuffer().size_s)


def test_a_late_text_teaches_nothing() -> None:
    prebuffer = Prebuffer()
    prebuffer.learn(0.0)

    async def play() -> None:
        async def events() -> AsyncIterator[TurnEvent]:
            for utterance in range(3):
                for number in range(5):
                    yield chunk(number, utterance)
                await asyncio.sleep(3.0)

        async for _ in prebuffer.pace(events(), lambda: 0.0):
            pass

    run_in_virtual_time(play())
    assert prebuffer.size_s < 0.1


def test_who_takes_nothing_for_a_while_teaches_nothing() -> None:
    """A client that stops reading must not cost the next callers their quick start."""
    prebuffer = Prebuffer()
    prebuffer.learn(0.0)

    async def play() -> None:
        async def events() -> AsyncIterator[TurnEvent]:
            for number in range(40):
                await asyncio.sleep(CHUNK_S / 4)
                yield chunk(number)

        async for event in prebuffer.pace(events(), lambda: 0.0):
            if isinstance(event, AudioChunk) and event.position in (2, 20):
                await asyncio.sleep(60.0)

    run_in_virtual_time(play())
    assert prebuffer.size_s < 0.1


def test_behind_other_speech_nothing_is_held_back() -> None:
    silences, events = listen(Prebuffer(), [0.05, 0.05, 0.05], lead_s=1.0)
    assert silences == []
    assert len(events) == 3


def test_order_end_and_errors_pass_through() -> None:
    word, end = Word("Hello", 0.0, 0.1, 0), TurnEnd("done")
    _, events = listen(Prebuffer(), [word, 0.0, end])
    assert events == [word, chunk(1), end]
    with pytest.raises(EngineDied):
        listen(Prebuffer(), [0.0, EngineDied("gone")])


def test_what_came_before_an_error_is_heard() -> None:
    heard: list[TurnEvent] = []

    async def play() -> None:
        async def events() -> AsyncIterator[TurnEvent]:
            yield chunk(0)
            raise EngineDied("gone")

        async for event in Prebuffer().pace(events(), lambda: 0.0):
            heard.append(event)

    with pytest.raises(EngineDied):
        run_in_virtual_time(play())
    assert heard == [chunk(0)]
