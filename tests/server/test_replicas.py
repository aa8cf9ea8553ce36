"""`serve --replicas`: several engine processes behind one listener, on the crafted model."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from orpheus_plugin.engine.config import EngineConfig
from orpheus_plugin.errors import AtCapacity, ConnectionFailed, EngineDied, InvalidOptions
from orpheus_plugin.server import replicas
from orpheus_plugin.server.config import ServerConfig
from orpheus_plugin.server.replicas import ReplicatedEngine, check_replicas, replica_config
from orpheus_plugin.turn import Turn
from tests.support.checkpoints import SMALL_TEXT, crafted_checkpoint
from tests.support.codecs import random_codec
from tests.support.turns import spoken

MAX_TURNS = 4
START_S = 240  # on a busy machine


def config() -> ServerConfig:
    engine = EngineConfig(
        model=str(crafted_checkpoint(text=SMALL_TEXT)),
        codec=random_codec(),
        device="cpu",
        max_turns=MAX_TURNS,
    )
    return ServerConfig(engine, replicas=2, drain_s=1.0, log_level="error")


async def speak(turn: Turn) -> int:
    """Samples that were heard."""
    return await spoken(turn, "The quick brown fox jumps over the lazy dog.")


@pytest_asyncio.fixture(scope="class", loop_scope="class")
async def engine() -> AsyncIterator[ReplicatedEngine]:
    engine = ReplicatedEngine(config())
    async with asyncio.timeout(START_S):
        await engine.start()
    yield engine
    await engine.aclose()


@pytest.mark.timeout(2 * START_S)
class TestReplicas:
    pytestmark = pytest.mark.asyncio(loop_scope="class")

    async def test_places_of_replicas_are_added_up(self, engine: ReplicatedEngine) -> None:
        await engine.start()  # once is enough
        health = engine.health()
        assert health.ready
        assert (health.active_turns, health.max_turns, health.restarts) == (0, MAX_TURNS, 0)
        assert engine.check_voice("tara") == "tara"

    async def test_turns_are_spread_over_replicas(self, engine: ReplicatedEngine) -> None:
        turns = [engine.open_turn() for _ in range(MAX_TURNS)]
        counts = [sum(not turn.ended for turn in one.turns) for one in engine._replicas]
        assert counts == [MAX_TURNS // 2] * 2
        async with asyncio.timeout(60):
            with pytest.raises(AtCapacity):
                await speak(engine.open_turn())
            assert min(await asyncio.gather(*(speak(turn) for turn in turns))) >= 2048

    async def test_replicas_share_the_cores(self, engine: ReplicatedEngine) -> None:
        cores = [os.sched_getaffinity(one._process.pid) for one in engine._replicas]  # type: ignore[union-attr]
        ours = os.sched_getaffinity(0)
        assert all(own <= ours for own in cores)
        if len(ours) >= 2:
            assert not cores[0] & cores[1]

    async def test_z_a_replica_that_dies_is_restarted_and_the_other_continues(
        self, engine: ReplicatedEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(replicas, "_AGAIN_S", 0.1)
        turns = [engine.open_turn() for _ in range(2)]
        doomed = next(one for one in engine._replicas if turns[0] in one.turns)
        spared = next(one for one in engine._replicas if turns[1] in one.turns)
        assert doomed is not spared
        assert doomed._process is not None
        doomed._process.send_signal(signal.SIGKILL)
        async with asyncio.timeout(START_S):
            # The replica that takes its place goes on with the turn, unless it starts too late.
            with contextlib.suppress(ConnectionFailed):
                assert await speak(turns[0]) >= 2048
            assert await speak(turns[1]) >= 2048
            assert await speak(engine.open_turn()) >= 2048
            while engine.health().max_turns < MAX_TURNS:
                await asyncio.sleep(0.1)
            assert doomed.restarts == 1
            assert engine.health().restarts == 1
            assert await speak(doomed.engine.open_turn()) >= 2048


@pytest.mark.timeout(START_S)
async def test_a_replica_that_does_not_start_is_reported(tmp_path: Path) -> None:
    wrong = ServerConfig(EngineConfig(model=str(tmp_path), device="cpu"), replicas=2)
    engine = ReplicatedEngine(wrong)
    with pytest.raises(EngineDied, match="ended while it started"):
        await engine.start()
    with pytest.raises(EngineDied):
        engine.open_turn()
    assert not engine.health().ready
    await engine.aclose()


@pytest.mark.timeout(START_S)
async def test_a_replica_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    one = replicas._Replica(replica_config(config(), tmp_path / "one.sock"), [])
    await one.start()
    process = one._process
    assert process is not None
    assert process.stdin is not None
    assert one._keeping is not None
    one._keeping.cancel()
    process.stdin.close()
    assert await asyncio.wait_for(process.wait(), 60) == 0
    await one.aclose()


def test_each_replica_gets_its_share_of_the_turns_and_no_key() -> None:
    whole = ServerConfig(EngineConfig(model="mini", max_turns=9), replicas=2, api_key="k", mps=True)
    part = replica_config(whole, Path("/run/one.sock"))
    assert (part.engine.max_turns, part.replicas, part.mps, part.api_key) == (5, 1, False, None)
    assert part.uds == Path("/run/one.sock")


def test_cores_are_split_into_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    assert replicas._shares(3) == [list(range(5)), list(range(5, 10)), list(range(10, 15))]
    assert replicas._shares(20) == [list(range(16))] * 20


def test_an_invalid_number_of_replicas_is_refused() -> None:
    with pytest.raises(InvalidOptions, match="at least 1"):
        check_replicas(ServerConfig(EngineConfig(), replicas=0))
