"""One engine for all server tests, and a server around it for each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import pytest

from orpheus_plugin.engine.config import EngineConfig
from orpheus_plugin.engine.local import LocalEngine
from orpheus_plugin.speech_engine import SpeechEngine
from tests.support.servers import KeptOpen, RunningTestServer, serving

if TYPE_CHECKING:
    from orpheus_plugin.models.files import ModelFiles


@pytest.fixture(scope="session")
def started_engine(crafted_files: ModelFiles) -> Iterator[LocalEngine]:
    engine = LocalEngine(EngineConfig(device="cpu", max_turns=8), files=crafted_files)
    asyncio.run(engine.start())
    yield engine
    asyncio.run(engine.aclose())


@pytest.fixture
async def engine(started_engine: LocalEngine) -> AsyncIterator[SpeechEngine]:
    """The crafted model, eight turns at once; servers that end leave it running. Nothing may be
    left on it."""
    yield KeptOpen(started_engine)
    async with asyncio.timeout(5):
        while started_engine.health().active_turns:
            await asyncio.sleep(0.01)


@pytest.fixture
async def server(engine: SpeechEngine) -> AsyncIterator[RunningTestServer]:
    async with serving(engine) as running:
        yield running
