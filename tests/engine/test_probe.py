"""An engine that measures how many turns it can speak, at its start."""

from __future__ import annotations

import pytest

from orpheus_plugin.engine.config import EngineConfig
from orpheus_plugin.engine.local import LocalEngine
from orpheus_plugin.engine.probe import probe
from orpheus_plugin.models.files import ModelFiles


async def test_a_measuring_engine_admits_as_many_turns_as_it_measured(
    crafted_files: ModelFiles,
) -> None:
    engine = LocalEngine(EngineConfig(device="cpu", max_turns=4, measure=True), files=crafted_files)
    await engine.start()
    try:
        assert 1 <= engine.health().max_turns <= 4
        assert engine.health().active_turns == 0
    finally:
        await engine.aclose()


async def test_a_probe_without_audio_gives_no_figure(
    crafted_engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orpheus_plugin.engine.probe.PROBE_S", 0.0)
    assert await probe(3, crafted_engine.open_turn) is None
    assert crafted_engine.health().active_turns == 0
