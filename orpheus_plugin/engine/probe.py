"""The measurement after a start: the engine speaks one turn, then several at once, to find its
speed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from orpheus_plugin.engine.admission import Admission
from orpheus_plugin.errors import EngineDied, OrpheusError
from orpheus_plugin.events import SAMPLE_RATE, AudioChunk
from orpheus_plugin.turn import Turn

PROBE_S = 1.5
"""Seconds for which a number of turns is measured."""

LOOK_S = 0.02
"""Seconds between two looks whether a caller has come: a measurement gives way."""

PROBE_TEXT = (
    "This is how long it takes to speak a few sentences on this machine. Nobody will ever hear"
    " them, and that is fine. They only have to be long enough, so that nobody is finished before"
    " the clock is. Then we know how many people may be spoken to at the same time, without a gap"
    " for any of them."
)


async def speak_once(open_turn: Callable[[], Turn]) -> None:
    """Speak a word. Raises EngineDied; a model that gives no usable speech is not a failure of the
    engine."""
    async with open_turn() as turn:
        turn.push_text("Hello there.")
        turn.end()
        try:
            async for _ in turn:
                pass
        except EngineDied:
            raise
        except OrpheusError:
            pass


async def measure(
    open_turn: Callable[[], Turn], admission: Admission, busy: Callable[[], bool]
) -> None:
    """Measure 1, 2, 4 ... turns at once for `admission`, as far as places and time allow. It ends
    when callers keep the engine `busy`."""
    turns = 1
    while not busy():
        speed = await probe(turns, open_turn, busy)
        if speed is not None:
            admission.learn(turns, speed)
        if turns == admission.ceiling or not admission.suffices(turns):
            return
        turns = min(2 * turns, admission.ceiling)


async def probe(
    turns: int, open_turn: Callable[[], Turn], busy: Callable[[], bool] = lambda: False
) -> float | None:
    """Seconds of audio per second with this many turns at once; None if there was too little audio,
    or a caller came."""
    arrived: list[tuple[float, int]] = []

    async def listen(turn: Turn) -> None:
        turn.push_text(PROBE_TEXT)
        turn.end()
        async for event in turn:
            if isinstance(event, AudioChunk):
                arrived.append((time.monotonic(), event.samples))

    opened = [open_turn() for _ in range(turns)]
    listening = [asyncio.create_task(listen(turn)) for turn in opened]
    ends_at = time.monotonic() + PROBE_S
    try:
        # When one is finished, fewer turns run.
        while time.monotonic() < ends_at and not any(task.done() for task in listening):
            if busy():
                return None
            await asyncio.sleep(LOOK_S)
    finally:
        await asyncio.gather(*(turn.cancel() for turn in opened))
        await asyncio.gather(*listening, return_exceptions=True)
    if len(arrived) < 4 * turns:
        return None
    # Prompts and the first small pieces are not the steady state.
    began = arrived[len(arrived) // 4][0]
    passed = arrived[-1][0] - began
    samples = sum(size for when, size in arrived if when > began)
    return samples / SAMPLE_RATE / passed if passed > 0.05 else None
