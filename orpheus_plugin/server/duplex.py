"""A websocket that carries one turn: its text is read while its audio is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def drive(reading: Coroutine[Any, Any, None], speaking: Coroutine[Any, Any, None]) -> None:
    """Run both until the speech is sent, or until the reading ends because the client is gone.
    Raises what either raises."""
    reader = asyncio.create_task(reading, name="orpheus-read")
    speaker = asyncio.create_task(speaking, name="orpheus-speak")
    try:
        await asyncio.wait({reader, speaker}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (reader, speaker):
            task.cancel()
        await asyncio.gather(reader, speaker, return_exceptions=True)
    for task in (reader, speaker):
        if not task.cancelled():
            await task
