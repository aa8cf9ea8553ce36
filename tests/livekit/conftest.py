"""Every test here leaves no task behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from orpheus_plugin.livekit import OrpheusTTS
from tests.livekit.tones import ToneEngine


@pytest.fixture
def tones() -> ToneEngine:
    return ToneEngine()


@pytest.fixture
async def speech(tones: ToneEngine) -> AsyncIterator[OrpheusTTS]:
    """An OrpheusTTS that speaks in tones."""
    async with OrpheusTTS(engine=tones) as speech:
        yield speech


@pytest.fixture(autouse=True)
async def no_task_left() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    for _ in range(50):
        left = asyncio.all_tasks() - before - {asyncio.current_task()}
        if not left:
            return
        await asyncio.sleep(0.02)
    assert not {task.get_name() for task in left}
