"""How much of a turn's audio is held back, so that its listener has no underrun."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from orpheus_plugin.engine.playout import PlayoutClock
from orpheus_plugin.engine.prebuffer import AGAIN_S, GRAIN_S, MOST_S, REMEMBERED, Outlet, Prebuffer
from orpheus_plugin.events import SAMPLE_RATE, AudioChunk, TurnEvent, Word
from tests.support.virtual_time import run_in_virtual_time

CHUNK_S = 0.1


def chunk(number: int, utterance: int = 0) -> AudioChunk:
    return AudioChunk(bytes(int(2 * CHUNK_S * SAMPLE_RATE)), number, utterance)


Came = list[tuple[float, TurnEvent]]


def listen(
    prebuffer: Prebuffer, waits: Sequence[float | None], lead_s: float = 0.0
) -> tuple[list[float], Came]:
    """A chunk of 0.1 s after each wait; None begins another utterance. The listener plays at once.

    Returns the silences within the speech, and when each event came.
    """

    async def play() -> tuple[list[float], Came]:
        now = asyncio.get_running_loop().time
        clock = PlayoutClock(now)
        if lead_s:
            clock.delay(lead_s)
        silences: list[float] = []
        came: Came = []

        def hand_on(events: Sequence[TurnEvent], seconds: float) -> None:
            if (gap := clock.play(seconds)) > 1e-6:
                silences.append(gap)
            came.extend((now(), event) for event in events)

        outlet = Outlet(prebuffer, clock, hand_on)
        utterance = 0
        for number, wait in enumerate(waits):
            if wait is None:
                outlet.flush()
                utterance += 1
            else:
                await asyncio.sleep(wait)
                outlet.push([chunk(number, utterance)], CHUNK_S, utterance)
        outlet.flush()
        outlet.close()
        return silences, came

    return run_in_virtual_time(play())


SLOW_START = [0.3, 0.0, 0.25, *[0.08] * 20]
"""Two chunks at once, then a delay of 0.15 s, then 1.25 seconds of audio a second."""

FAST = [0.3, *[0.01] * 20]
"""An engine ten times as fast as speech."""


def slow_at_first() -> Prebuffer:
    prebuffer = Prebuffer()
    prebuffer.learn(0.2)
    return prebuffer


def test_a_delay_at_the_beginning_causes_no_underrun() -> None:
    silences, came = listen(slow_at_first(), SLOW_START)
    assert silences == []
    positions = [event.position for _, event in came if isinstance(event, AudioChunk)]
    assert positions == list(range(23))


def test_the_prebuffer_is_what_the_last_turns_needed() -> None:
    prebuffer = Prebuffer()
    listen(prebuffer, FAST)
    assert prebuffer.size_s == pytest.approx(GRAIN_S + 0.01)
    listen(prebuffer, SLOW_START)
    assert prebuffer.size_s > 0.15
    for _ in range(REMEMBERED):
        listen(prebuffer, FAST)
    assert prebuffer.size_s < 0.1


def test_a_fast_engine_has_no_prebuffer() -> None:
    prebuffer = Prebuffer()
    prebuffer.learn(0.0)
    _, came = listen(prebuffer, [0.0, 10.0])
    assert came[0][0] == 0.0


def test_the_prebuffer_of_an_engine_slower_than_speech_is_limited() -> None:
    prebuffer = Prebuffer()
    for _ in range(3):
        silences, _ = listen(prebuffer, [0.2] * 30)
        assert prebuffer.size_s <= MOST_S
    # Gaps that are worth one, instead of one before every chunk.
    assert all(gap >= AGAIN_S - 1e-6 for gap in silences)


def test_a_short_answer_is_not_held_back_for_longer_than_its_prebuffer() -> None:
    """The language model goes on much later; nothing says so when the first sentence is over."""
    prebuffer = slow_at_first()
    _, came = listen(prebuffer, [0.0, 10.0])
    assert came[0][0] == pytest.approx(0.23)


def test_the_end_of_an_utterance_is_not_held_back() -> None:
    _, came = listen(slow_at_first(), [0.0, None, 10.0])
    assert came[0][0] == 0.0


def test_late_text_does_not_change_the_prebuffer() -> None:
    prebuffer = Prebuffer()
    prebuffer.learn(0.0)
    listen(prebuffer, [*[0.0] * 5, None, 3.0, *[0.0] * 4, None, 3.0, *[0.0] * 4])
    assert prebuffer.size_s < 0.1


def test_audio_queued_after_other_speech_is_not_held_back() -> None:
    silences, came = listen(slow_at_first(), [0.05, 0.05, 0.05], lead_s=1.0)
    assert silences == []
    assert [when for when, _ in came] == pytest.approx([0.05, 0.1, 0.15])


def test_words_stay_before_their_audio_and_dropped_events_are_not_delivered() -> None:
    came: list[TurnEvent] = []

    async def play() -> None:
        clock = PlayoutClock(asyncio.get_running_loop().time)
        word = Word("Hello", 0.0, 0.1, 0)
        outlet = Outlet(slow_at_first(), clock, lambda events, seconds: came.extend(events))
        outlet.push([word, chunk(0)], CHUNK_S, 0)
        assert outlet.held_s == CHUNK_S
        await asyncio.sleep(1)
        assert came == [word, chunk(0)]
        outlet = Outlet(slow_at_first(), clock, lambda events, seconds: came.extend(events))
        outlet.push([chunk(1, 1)], CHUNK_S, 1)
        outlet.close()
        await asyncio.sleep(1)

    run_in_virtual_time(play())
    assert len(came) == 2
