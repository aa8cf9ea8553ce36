"""Turns that are spoken whole."""

from __future__ import annotations

from orpheus_plugin.events import AudioChunk, TurnEnd
from orpheus_plugin.turn import Turn


async def spoken(turn: Turn, text: str) -> int:
    """Speak a text to its end. Returns the number of samples, which follow each other without a
    gap."""
    turn.push_text(text)
    turn.end()
    samples = 0
    async for event in turn:
        if isinstance(event, AudioChunk):
            assert event.position == samples
            samples += event.samples
        elif isinstance(event, TurnEnd):
            assert event.reason == "done"
    return samples
