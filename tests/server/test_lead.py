"""What a turn begins with: nothing more where the engine is fast, enough where it is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from orpheus_plugin.errors import EngineDied
from orpheus_plugin.server import lead as lead_module
from orpheus_plugin.server.lead import MOST_S, REMEMBERED, SPARE_S, Lead
from orpheus_plugin.turn import AudioChunk, TurnEnd, TurnEvent, Word

PIECE_S = 0.02


class Clock:
    """Time that passes only where a script says so."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(lead_module, "time", clock)
    return clock


def piece(utterance: int = 0) -> AudioChunk:
    return AudioChunk(bytes(2 * int(PIECE_S * 24_000)), 0, utterance)


async def script(clock: Clock, *pauses: float, utterance: int = 0) -> AsyncIterator[TurnEvent]:
    """A piece after each pause."""
    for pause in pauses:
        clock.now += pause
        yield piece(utterance)
    yield TurnEnd("done")


async def arrivals(
    lead: Lead, clock: Clock, events: AsyncIterator[TurnEvent]
) -> list[tuple[float, TurnEvent]]:
    began = clock.now
    return [(clock.now - began, event) async for event in lead.pace(events)]


def gap(heard: list[tuple[float, TurnEvent]]) -> float:
    """Seconds a listener who plays at once waits in mid-speech."""
    dry, gaps = None, 0.0
    for when, event in heard:
        if isinstance(event, AudioChunk):
            if dry is not None:
                gaps += max(0.0, when - dry)
            dry = max(dry or when, when) + event.duration_s
    return gaps


async def test_a_fast_engine_comes_to_begin_at_once(clock: Clock) -> None:
    lead = Lead()
    for _ in range(REMEMBERED):
        await arrivals(lead, clock, script(clock, *[0.002] * 20))
    assert lead.size_s == 0
    heard = await arrivals(lead, clock, script(clock, *[0.002] * 20))
    assert heard[0][0] == pytest.approx(0.002)


async def test_an_engine_that_hiccups_begins_with_what_that_takes(clock: Clock) -> None:
    lead = Lead()
    # Twice real time, but for a hiccup of 0.12 s after the first tenth of a second.
    pauses = [0.01] * 5 + [0.12] + [0.01] * 50
    first = await arrivals(lead, clock, script(clock, *pauses))
    assert gap(first) > 0
    again = await arrivals(lead, clock, script(clock, *pauses))
    assert gap(again) == 0
    assert MOST_S > lead.size_s > SPARE_S
    # And it is not waited for longer than for the audio itself.
    assert again[0][0] < 0.01 * lead.size_s / PIECE_S + 0.13


async def test_what_was_needed_once_is_forgotten(clock: Clock) -> None:
    lead = Lead()
    await arrivals(lead, clock, script(clock, *[0.01] * 6, 0.2, 0.01))
    assert lead.size_s > 0.1
    for _ in range(REMEMBERED):
        await arrivals(lead, clock, script(clock, *[0.002] * 20))
    assert lead.size_s == 0


async def test_a_pause_between_utterances_is_nobodys_need(clock: Clock) -> None:
    async def two() -> AsyncIterator[TurnEvent]:
        for utterance in (0, 1):
            for _ in range(20):
                clock.now += 0.002
                yield piece(utterance)
            clock.now += 5.0  # the language model thinks
        yield TurnEnd("done")

    lead = Lead()
    for _ in range(REMEMBERED):
        await arrivals(lead, clock, two())
    assert lead.size_s == 0


async def test_a_short_utterance_is_not_held_for_what_may_never_come() -> None:
    more = asyncio.Event()

    async def waiting() -> AsyncIterator[TurnEvent]:
        yield Word("Yes.", 0.0, 0.02, 0)
        yield piece()
        await more.wait()
        yield piece(1)
        yield TurnEnd("done")

    lead = Lead()
    lead.learn(10.0)
    events = lead.pace(waiting())
    async with asyncio.timeout(2 * MOST_S + 1):
        assert isinstance(await anext(events), Word)
        assert isinstance(await anext(events), AudioChunk)
    more.set()
    assert [type(event) async for event in events] == [AudioChunk, TurnEnd]


async def test_what_was_held_comes_before_an_error() -> None:
    async def dying() -> AsyncIterator[TurnEvent]:
        yield piece()
        raise EngineDied("gone")

    lead, heard = Lead(), list[TurnEvent]()
    lead.learn(10.0)
    with pytest.raises(EngineDied):
        async for event in lead.pace(dying()):
            heard.append(event)
    assert [type(event) for event in heard] == [AudioChunk]


async def test_leaving_early_leaves_no_task(clock: Clock) -> None:
    before = asyncio.all_tasks()
    events = Lead().pace(script(clock, *[0.01] * 9))
    await anext(events)
    await events.aclose()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
