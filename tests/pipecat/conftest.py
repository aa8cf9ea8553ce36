"""Pipecat logs to standard error by itself; a failing test shows its warnings only."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from orpheus_plugin.engine.local import LocalEngine

pytest.importorskip("pipecat.services.tts_service", reason="pipecat-ai is not installed")

from loguru import logger

logger.remove()
logger.add(sys.stderr, level="WARNING")


@pytest.fixture(scope="session")
def mini_engine() -> Iterator[LocalEngine]:
    """The bundled voice, for tests of what is heard."""
    from orpheus_plugin.engine.config import EngineConfig
    from orpheus_plugin.engine.local import LocalEngine
    from orpheus_plugin.models.files import known_models

    if "mini" not in known_models():
        pytest.skip("no bundled voice")
    engine = LocalEngine(EngineConfig(model="mini", device="cpu"))
    asyncio.run(engine.start())
    yield engine
    asyncio.run(engine.aclose())


@pytest.fixture
def real_time(mini_engine: LocalEngine) -> float:
    """For tests with a listener in real time: a machine that is too slow or too busy skips them.

    How fast the voice is just now, in seconds of audio per second.
    """

    async def speed() -> float:
        from orpheus_plugin.events import TurnEnd

        turn = mini_engine.open_turn()
        turn.push_text("The train to the city leaves at seven, and the train to the sea at nine.")
        turn.end()
        async for event in turn:
            if isinstance(event, TurnEnd):
                return event.stats.rtfx or 0.0
        return 0.0

    factor = asyncio.run(speed())
    if factor < 1.2:
        pytest.skip(
            f"this machine speaks at {factor:.2f} x real time now; a conversation needs 1.2"
        )
    return factor
