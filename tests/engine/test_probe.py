"""An engine that measures how many turns it can speak, at its start."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from orpheus_plugin.engine.config import EngineConfig
from orpheus_plugin.engine.local import LocalEngine
from orpheus_plugin.engine.probe import probe
from orpheus_plugin.events import AudioChunk
from orpheus_plugin.models.files import ModelFiles
from orpheus_plugin.turn import Turn

CONFIG = EngineConfig(device="cpu", max_turns=4, measure=True)


async def test_an_engine_is_ready_before_it_is_measured_and_the_measurement_gives_way_to_a_caller(
    crafted_files: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orpheus_plugin.engine.probe.PROBE_S", 3_600.0)
    monkeypatch.setattr("orpheus_plugin.engine.probe.PROBE_TEXT", "It goes on and on. " * 300)
    opened: list[str] = []
    warm_up = LocalEngine._open_warm_up

    def counted(self: LocalEngine, *args: Any) -> Turn:
        turn = warm_up(self, *args)
        opened.append("opened")
        cancel = turn.cancel

        async def cancelled() -> None:
            opened.append("cancelled")
            await cancel()

        turn.cancel = cancelled  # type: ignore[method-assign]
        return turn

    monkeypatch.setattr(LocalEngine, "_open_warm_up", counted)
    engine = LocalEngine(CONFIG, files=crafted_files)
    await engine.start()
    try:
        assert engine.health().ready
        assert engine.health().max_turns == 2
        async with engine.open_turn() as turn:
            turn.push_text("Hello there. " * 20)
            turn.end()
            async for event in turn:
                if isinstance(event, AudioChunk) and "cancelled" in opened:
                    break
            # When the engine has made all of the caller's turn, it may measure again.
            assert "cancelled" in opened
    finally:
        await engine.aclose()


async def test_a_measured_engine_admits_as_many_turns_as_it_measured(
    crafted_files: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orpheus_plugin.engine.probe.PROBE_S", 0.4)
    engine = LocalEngine(CONFIG, files=crafted_files)
    await engine.start()
    try:
        async with asyncio.timeout(30):
            while engine._admission._cost is None:
                await asyncio.sleep(0.05)
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
