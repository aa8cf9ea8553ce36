"""An engine that measures how many turns it can speak, at its start."""

from __future__ import annotations

import pytest

from orpheus_plugin.engine.config import EngineConfig
from orpheus_plugin.engine.local import LocalEngine
from orpheus_plugin.engine.probe import probe
from orpheus_plugin.models.files import ModelFiles


async def test_an_engine_that_measures_takes_what_it_can_and_no_more(
    crafted_files: ModelFiles,
) -> None:
    engine = LocalEngine(EngineConfig(device="cpu", max_turns=4, measure=True), files=crafted_files)
    await engine.start()
    try:
        assert 1 <= engine.health().max_turns <= 4
        assert engine.health().active_turns == 0
    finally:
        await engine.aclose()


async def test_a_probe_that_says_nothing_tells_nothing(
    crafted_engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orpheus_plugin.engine.probe.PROBE_S", 0.0)
    assert await probe(3, crafted_engine.open_turn) is None
    assert crafted_engine.health().active_turns == 0
