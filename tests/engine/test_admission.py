"""Admission's arithmetic: what is known, what is concluded from it, and what a tight moment changes."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from orpheus_plugin.engine.admission import RECOVER_S, TICK_S, Admission, Progress, Work
from orpheus_plugin.engine.config import EngineConfig
from orpheus_plugin.engine.local import LocalEngine
from orpheus_plugin.engine.probe import probe
from orpheus_plugin.models.files import ModelFiles
from tests.support.calls import Calls


class Machine:
    """Turns that are generated at a speed, looked at as the engine does."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.now = 100.0
        self.audio_s = self.busy_s = 0.0

    def run(
        self,
        turns: int,
        speed: float,
        seconds: float,
        *,
        ahead_s: float = 5.0,
        stretch_s: float = 5.0,
        busy: float = 1.0,
    ) -> None:
        """`busy`: the part of the time in which there is text to speak."""
        for _ in range(round(seconds / TICK_S)):
            self.now += TICK_S
            self.audio_s += speed * busy * TICK_S
            self.busy_s += turns * busy * TICK_S
            self.admission.look(
                [Progress(stretch_s, ahead_s, True)] * turns,
                Work(self.audio_s, self.busy_s),
                now=self.now,
            )


def test_while_nothing_is_known_there_is_room_for_all() -> None:
    assert Admission(8).limit == 8


def test_one_fast_turn_does_not_promise_that_many_are() -> None:
    admission = Admission(64)
    admission.learn(1, 1.3)
    assert admission.limit == 1
    admission.learn(1, 50.0)
    assert admission.limit == 2


def test_between_what_is_known_the_line_is_straight() -> None:
    admission = Admission(16)
    admission.learn(1, 4.0)
    admission.learn(4, 8.0)
    admission.learn(8, 9.0)
    assert admission.speed(1) == 4.0
    assert admission.speed(6) == pytest.approx(8.5)
    assert admission.limit == 5  # 8.25 is more than 1.25 times 5, and less than 1.25 times 7
    admission.learn(5, 8.25)
    assert admission.limit == 6


def test_a_machine_too_slow_for_one_still_takes_one() -> None:
    admission = Admission(8)
    admission.learn(1, 0.4)
    admission.learn(8, 0.5)
    assert admission.limit == 1


def test_running_faster_than_measured_makes_room_step_by_step() -> None:
    admission = Admission(16)
    admission.learn(1, 1.3)
    assert admission.limit == 1
    machine = Machine(admission)
    for turns in (1, 2, 3):
        machine.run(turns, 6.0, 10)
        assert admission.limit == turns + 1
    machine.run(4, 6.0, 10)
    assert admission.limit == 4


def test_running_slower_than_measured_takes_room_away() -> None:
    admission = Admission(16)
    admission.learn(1, 6.0)
    admission.learn(16, 32.0)
    assert admission.limit == 16
    Machine(admission).run(8, 8.0, 20)
    assert admission.limit < 8


def test_a_busy_hour_is_forgotten_when_fewer_turns_are_fast_again() -> None:
    admission = Admission(16)
    admission.learn(1, 8.0)
    machine = Machine(admission)
    machine.run(4, 2.0, 20)
    assert admission.limit <= 2
    for turns in (1, 2, 3, 4):
        machine.run(turns, 8.0, 20)
    assert admission.limit == 5


def test_a_tight_moment_holds_back_and_is_got_over_step_by_step() -> None:
    admission = Admission(8)
    admission.learn(8, 16.0)
    machine = Machine(admission)
    machine.run(6, 16.0, 5)
    assert admission.limit == 8
    machine.run(6, 16.0, TICK_S, ahead_s=0.05)
    assert admission.limit == 5
    machine.run(5, 16.0, RECOVER_S + TICK_S)
    assert admission.limit == 6
    machine.run(5, 16.0, 4 * RECOVER_S)
    assert admission.limit == 8


def test_the_first_second_of_a_turn_is_always_tight_and_tells_nothing() -> None:
    admission = Admission(8)
    Machine(admission).run(1, 16.0, TICK_S, ahead_s=0.01, stretch_s=0.3)
    assert admission.limit == 8


def test_waiting_for_text_is_neither_slow_nor_tight() -> None:
    """A language model that comes in bursts: between them nobody speaks, and after each the listener has nothing in hand."""
    admission = Admission(8)
    admission.learn(8, 16.0)
    Machine(admission).run(4, 12.0, 60, busy=0.6, ahead_s=0.0, stretch_s=0.4)
    assert admission.limit == 8


def test_turns_that_come_and_go_tell_the_speed_of_those_that_speak() -> None:
    admission = Admission(64)
    admission.learn(64, 200.0)
    calls = Calls(admission, 64, lambda turns: 40.0)
    calls.run(60)
    assert 30 <= admission.limit <= 35  # 32 times 1.25 is 40


def small_machine(turns: int) -> float:
    """The bundled voice on two cores: 2.5 seconds of audio a second alone, 5.4 with four turns, 6.8 with eight."""
    return turns / (0.29 + 0.11 * turns)


def measured(speed: Callable[[int], float], ceiling: int = 8) -> Admission:
    """As after a warm-up."""
    admission = Admission(ceiling)
    for turns in (1, 2, 4, 8):
        admission.learn(turns, speed(turns))
        if not admission.suffices(turns):
            break
    return admission


@pytest.mark.parametrize("callers", [4, 8, 16])
def test_beyond_capacity_those_that_were_taken_hear_no_gap(callers: int) -> None:
    calls = Calls(measured(small_machine), callers, small_machine)
    calls.run(120)
    assert not [call for call in calls.ended if call.dry_s]
    assert bool(calls.refused) is (callers > 4)
    assert sum(call.length_s for call in calls.ended) > 3.5 * 120


def test_a_machine_that_loses_what_was_kept_spare_costs_no_gap() -> None:
    calls = Calls(
        measured(small_machine), 8, small_machine, lambda now: 0.8 if now % 20 > 10 else 1.0
    )
    calls.run(200)
    assert not [call for call in calls.ended if call.dry_s]


@pytest.mark.parametrize("lasts_s", [2, 6])
def test_a_machine_that_wavers_is_judged_by_its_slow_moments(lasts_s: float) -> None:
    chance = random.Random(3)
    paces = [chance.choice((1.15, 0.6)) for _ in range(200)]
    calls = Calls(measured(small_machine), 6, small_machine, lambda now: paces[int(now / lasts_s)])
    calls.run(400)
    assert not [call for call in calls.ended if call.dry_s and call.since and call.since > 40]
    assert sum(call.length_s for call in calls.ended) > 400


def test_a_machine_that_loses_half_is_remembered_the_second_time() -> None:
    """Nobody can foresee the first time; those that speak then are heard out with gaps, and nobody later."""
    calls = Calls(
        measured(small_machine), 8, small_machine, lambda now: 0.5 if now % 40 > 20 else 1.0
    )
    calls.run(240)
    gaps = [call.since for call in calls.ended if call.dry_s and call.since is not None]
    assert len(gaps) <= 4
    assert all(since < 40 for since in gaps)
    assert sum(call.length_s for call in calls.ended) > 240


async def test_an_engine_that_measures_takes_what_it_can_and_no_more(
    crafted_files: ModelFiles,
) -> None:
    engine = LocalEngine(EngineConfig(device="cpu", max_turns=4, measure=True), files=crafted_files)
    await engine.start()
    try:
        assert 1 <= engine.health().max_turns <= 4
        assert set(engine._admission._speed) <= {1, 2, 4}
        assert engine.health().active_turns == 0
    finally:
        await engine.aclose()


async def test_a_probe_that_says_nothing_tells_nothing(
    crafted_engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orpheus_plugin.engine.probe.PROBE_S", 0.0)
    assert await probe(3, crafted_engine.open_turn) is None
    assert crafted_engine.health().active_turns == 0
