"""How many turns an engine admits, given its own speed, and the effect under load."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from orpheus_plugin.engine.admission import TICK_S, Admission, Progress, Work
from tests.support.open_load import Machine, measured, run

SMALL = Machine(0.40, 0.28, 8)
"""Two cores with a small voice: six turns at once are just in real time."""

LARGE = Machine(0.25, 0.2, 16)
GPU = Machine(0.30, 0.02, 64)

CHANCE = random.Random(3)
PACES = [CHANCE.choice((1.1, 0.75)) for _ in range(200)]

PACE = {
    "steady": (lambda now: 1.0, 0.0),
    "jitter": (lambda now: 1.0, 0.25),
    "slow spells": (lambda now: 0.7 if now % 40 > 36 else 1.0, 0.15),
    "wavering": (lambda now: PACES[int(now / 3) % 200], 0.1),
}


class Looks:
    """An engine whose turns are looked at."""

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


def test_without_measurements_all_places_are_admitted() -> None:
    assert Admission(8).limit == 8


def test_one_fast_turn_does_not_imply_that_many_are_fast() -> None:
    admission = Admission(64)
    admission.learn(1, 50.0)
    assert admission.limit == 2


def test_the_speed_of_few_turns_predicts_the_limit() -> None:
    admission = Admission(64)
    admission.learn(1, SMALL.speed(1))
    admission.learn(4, SMALL.speed(4))
    assert admission.limit in (4, 5)
    assert admission.suffices(4)
    assert not admission.suffices(7)


def test_a_machine_too_slow_for_one_turn_still_admits_one() -> None:
    admission = Admission(8)
    admission.learn(1, 0.4)
    assert admission.limit == 1


def test_capacity_measured_beside_other_programs_recovers() -> None:
    admission = Admission(16)
    admission.learn(1, 0.9)
    assert admission.limit == 1
    looks = Looks(admission)
    for _ in range(60):
        looks.run(admission.limit, LARGE.speed(admission.limit), 2)
    assert admission.limit >= 11


def test_running_slower_than_measured_lowers_the_limit_until_it_recovers() -> None:
    admission = measured(LARGE)
    before = admission.limit
    looks = Looks(admission)
    looks.run(8, 0.5 * LARGE.speed(8), 3)
    assert admission.limit < before / 2
    looks.run(4, LARGE.speed(4), 60)
    assert admission.limit >= before - 1


def test_one_short_shortage_stops_admission_only_while_it_lasts() -> None:
    admission = measured(LARGE)
    before = admission.limit
    looks = Looks(admission)
    looks.run(6, LARGE.speed(6), TICK_S, ahead_s=0.05)
    assert admission.limit == 6
    looks.run(6, LARGE.speed(6), TICK_S)
    assert admission.limit >= before - 1


def test_the_first_second_of_a_turn_does_not_count_as_a_shortage() -> None:
    admission = measured(LARGE)
    before = admission.limit
    Looks(admission).run(1, LARGE.speed(1), TICK_S, ahead_s=0.01, stretch_s=0.3)
    assert admission.limit == before


def test_callers_who_come_before_the_measurement_raise_the_limit_within_seconds() -> None:
    admission = Admission(LARGE.ceiling)
    looks = Looks(admission)
    looks.run(0, 0.0, TICK_S)
    assert admission.limit == 2
    for _ in range(5):  # seconds
        turns = admission.limit
        looks.run(turns, LARGE.speed(turns), 1.0)
    assert admission.limit >= measured(LARGE).limit - 1


def test_waiting_for_text_is_neither_slowness_nor_a_shortage() -> None:
    """A language model that answers in bursts: between them no turn speaks, and after each the
    listener has no audio left."""
    admission = measured(LARGE)
    before = admission.limit
    Looks(admission).run(4, LARGE.speed(4), 60, busy=0.6, ahead_s=0.0, stretch_s=0.4)
    assert admission.limit >= before - 1


@pytest.mark.parametrize("load", [0.5, 0.9, 1.2, 2.0])
@pytest.mark.parametrize("pace", PACE)
@pytest.mark.parametrize("machine", [SMALL, LARGE], ids=["small", "large"])
def test_goodput_under_any_load_is_near_that_of_the_best_fixed_limit(
    machine: Machine, pace: str, load: float
) -> None:
    """Goodput near the best fixed limit's, found by trying; at most one admitted turn in fifty (or
    two) hears a gap of 100 ms.

    Over longer runs (benchmarks/admission.py): 89 to 100 % and at most one in eighty.
    """
    by_time, jitter = PACE[pace]
    machine = replace(machine, pace=by_time, jitter=jitter)
    rate = load * machine.turns_per_s
    tried = {max(1, round(machine.enough * part / 10)) for part in (4, 6, 7, 8, 9, 10, 11)}
    best = max(run(machine, rate, limit, seconds=200).goodput for limit in tried)
    own = run(machine, rate, measured(machine), seconds=200)
    assert own.goodput >= 0.86 * best
    assert len(own.ended) - own.good <= max(2, len(own.ended) // 50)


def test_a_large_machine_admits_many_turns_at_once() -> None:
    own = run(GPU, 1.2 * GPU.turns_per_s, measured(GPU), seconds=60)
    assert own.c100 == 1.0
    assert min(own.limits) == 64
