"""An engine under an open load, as arithmetic: turns arrive whether others have ended or not, and
each has a listener.

All turns that are generated share the engine; a listener begins with a little audio and plays at
once.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from orpheus_plugin.engine.admission import TICK_S, Admission, Progress, Work

STEP_S = 0.1
PREBUFFER_S = 0.15
MAX_WAIT_S = 10.0


@dataclass(frozen=True)
class Machine:
    """How fast an engine is: a second of audio takes a turn `cost * (1 + slope * (n - 1))` seconds
    beside n - 1 others.

    Attributes:
        pace: what part of that the machine has to give at a time.
        jitter: the standard deviation of the logarithm of that, from one step to the next.
    """

    cost: float
    slope: float
    ceiling: int
    pace: Callable[[float], float] = lambda now: 1.0
    jitter: float = 0.0

    def speed(self, turns: int, now: float = 0.0) -> float:
        """Seconds of audio a second, all turns together."""
        return turns * self.pace(now) / (self.cost * (1 + self.slope * (turns - 1)))

    @property
    def enough(self) -> float:
        """Turns at once that are just in real time."""
        return min(self.ceiling, 1 + (1 / self.cost - 1) / self.slope)

    @property
    def turns_per_s(self) -> float:
        """Turns of 8 s that it can speak, each in real time."""
        return self.enough / (self.cost * (1 + self.slope * (self.enough - 1))) / 8


def measured(machine: Machine) -> Admission:
    """As after a warm-up."""
    admission, turns = Admission(machine.ceiling), 1
    while True:
        admission.learn(turns, machine.speed(turns))
        if turns == machine.ceiling or not admission.suffices(turns):
            return admission
        turns = min(2 * turns, machine.ceiling)


@dataclass
class Call:
    length_s: float
    made_s: float = 0.0
    since: float | None = None  # when it began to be heard, gaps added
    gap_s: float = 0.0  # the one that goes on
    worst_s: float = 0.0


@dataclass
class Load:
    """What became of the turns that arrived.

    Attributes:
        c100: the share of those admitted whose worst gap was at most 100 ms.
        goodput: such turns a second.
        limits: the admission's, at each look.
    """

    ended: list[Call] = field(default_factory=list)
    refused: int = 0
    waited: int = 0
    limits: list[int] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def good(self) -> int:
        return sum(call.worst_s <= 0.1 for call in self.ended)

    @property
    def c100(self) -> float:
        return self.good / max(1, len(self.ended))

    @property
    def goodput(self) -> float:
        return self.good / self.seconds


def run(
    machine: Machine, rate: float, limit: Admission | int, *, seconds: float, seed: int = 1
) -> Load:
    """Turns of 3 to 13 s arrive at `rate` a second; `limit` at once, the others wait in line for up
    to 10 s."""
    chance, wobble = random.Random(seed), random.Random(seed)
    load = Load(seconds=seconds)
    line: deque[tuple[float, Call]] = deque()
    speaking: list[Call] = []
    made_s = busy_s = 0.0
    arrival = chance.expovariate(rate)
    for step in range(round(seconds / STEP_S)):
        now = step * STEP_S
        while arrival <= now:
            line.append((arrival, Call(chance.uniform(3, 13))))
            arrival += chance.expovariate(rate)
        while line and now - line[0][0] > MAX_WAIT_S:
            line.popleft()
            load.refused += 1
        places = limit if isinstance(limit, int) else limit.limit
        while line and len(speaking) < places:
            since, call = line.popleft()
            load.waited += now - since > STEP_S
            speaking.append(call)
        if speaking:
            share = machine.speed(len(speaking), now) / len(speaking) * STEP_S
            share *= math.exp(wobble.gauss(0, machine.jitter))
            for call in speaking:
                call.made_s += share
                _listen(call, now + STEP_S)
            made_s += share * len(speaking)
            busy_s += STEP_S * len(speaking)
            load.ended += [call for call in speaking if call.made_s >= call.length_s]
            speaking = [call for call in speaking if call.made_s < call.length_s]
        if isinstance(limit, Admission) and step % round(TICK_S / STEP_S) == 0:
            turns = [
                Progress(c.made_s, 0.0 if c.since is None else c.made_s - (now - c.since), True)
                for c in speaking
            ]
            limit.look(turns, Work(made_s, busy_s), now=now)
            load.limits.append(limit.limit)
    return load


def _listen(call: Call, now: float) -> None:
    if call.since is None:
        if call.made_s >= min(PREBUFFER_S, call.length_s):
            call.since = now
        return
    lacking = now - call.since - call.made_s
    if lacking > 0:
        call.since += lacking
        call.gap_s += lacking
        call.worst_s = max(call.worst_s, call.gap_s)
    else:
        call.gap_s = 0.0
