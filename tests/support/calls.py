"""Callers of an engine, as arithmetic: every turn that is generated gets its share of the machine's speed, and is listened to."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from orpheus_plugin.engine.admission import TICK_S, Admission, Progress, Work

STEP_S = 0.02
AGAIN_S = 0.5
"""A caller who was refused asks again after so long."""


@dataclass
class Call:
    """One turn: seconds of audio made, and since when it is heard."""

    length_s: float
    made_s: float = 0.0
    since: float | None = None
    dry_s: float = 0.0

    def ahead_s(self, now: float) -> float:
        return 0.0 if self.since is None else self.made_s - (now - self.since)


class Calls:
    """`callers` who speak a turn after the other with an engine, for as long as `run` says.

    Args:
        speed: seconds of audio a second, all together, of so many turns.
        pace: what part of that the machine has to give at a time.
        prebuffer_s: of audio, with which a turn begins to be heard.
    """

    def __init__(
        self,
        admission: Admission,
        callers: int,
        speed: Callable[[int], float],
        pace: Callable[[float], float] = lambda now: 1.0,
        prebuffer_s: float = 0.15,
    ) -> None:
        self.admission = admission
        self.now = 0.0
        self.ended: list[Call] = []
        self.refused = 0
        self._speed, self._pace, self._cushion_s = speed, pace, prebuffer_s
        self._chance = random.Random(1)
        self._asks_at = [self._chance.uniform(0, 3) for _ in range(callers)]
        self._calls: list[Call | None] = [None] * callers
        self._made_s = self._busy_s = 0.0
        admission.look([], Work(0.0, 0.0), now=0.0)

    @property
    def speaking(self) -> list[Call]:
        return [call for call in self._calls if call is not None]

    def run(self, until_s: float) -> None:
        while self.now < until_s:
            self._ask()
            self._generate()
            self.now += STEP_S
            self._listen()
            if round(self.now / STEP_S) % round(TICK_S / STEP_S) == 0:
                self.admission.look(
                    [
                        Progress(c.made_s, c.ahead_s(self.now), c.made_s < c.length_s)
                        for c in self.speaking
                    ],
                    Work(self._made_s, self._busy_s),
                    now=self.now,
                )

    def _ask(self) -> None:
        for caller, call in enumerate(self._calls):
            if call is None and self._asks_at[caller] <= self.now:
                if len(self.speaking) < self.admission.limit:
                    self._calls[caller] = Call(self._chance.uniform(3, 13))
                else:
                    self.refused += 1
                    self._asks_at[caller] = self.now + AGAIN_S

    def _generate(self) -> None:
        generated = [call for call in self.speaking if call.made_s < call.length_s]
        if generated:
            share = self._speed(len(generated)) * self._pace(self.now) / len(generated) * STEP_S
            for call in generated:
                call.made_s = min(call.length_s, call.made_s + share)
            self._made_s += share * len(generated)
            self._busy_s += STEP_S * len(generated)

    def _listen(self) -> None:
        for caller, call in enumerate(self._calls):
            if call is None:
                continue
            if call.since is None:
                if call.made_s >= self._cushion_s:
                    call.since = self.now
            elif call.ahead_s(self.now) < 0 and call.made_s < call.length_s:
                call.since += STEP_S
                call.dry_s += STEP_S
            elif self.now - call.since >= call.length_s:
                self.ended.append(call)
                self._calls[caller] = None
                self._asks_at[caller] = self.now
