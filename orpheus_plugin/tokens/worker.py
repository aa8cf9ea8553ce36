"""Continuous batching: a thread that runs each step of a model for all requests at once.

Each step reads some ids of a joining request's prompt and draws one id for every running request,
whatever its slot. Requests join and leave between steps.
"""

from __future__ import annotations

import asyncio
import bisect
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from orpheus_plugin.errors import EngineDied
from orpheus_plugin.tokens.arrivals import Arrivals
from orpheus_plugin.tokens.base import FinishReason, SamplingParams
from orpheus_plugin.tokens.vocabulary import CODES, SLOTS
from orpheus_plugin.worker_thread import WorkerThread

STOP = CODES
"""Drawn by a stepper in place of a code at the end of the utterance."""


@dataclass(eq=False)
class Request(Arrivals):
    """One generation. The worker's thread owns `place`, `read`, `drawn` and `untold`; the event
    loop owns the arrived ids.

    Attributes:
        limit: ids to draw at most.
        priority: of the waiting requests, the lowest go first.
        adapter: number of its adapter, -1 for none.
        place: where the stepper keeps its cache.
        read: prompt ids in the cache; the first step that draws reads the last one.
        drawn: ids drawn.
        untold: of those, the last ones, which the event loop does not have yet.
        aborted: its consumer has closed it.
    """

    request_id: str
    prompt: list[int]
    sampling: SamplingParams
    limit: int
    priority: int
    adapter: int = -1
    place: int = -1
    read: int = 0
    drawn: int = 0
    untold: list[int] = field(default_factory=list)
    aborted: bool = False

    @property
    def ready(self) -> bool:
        """Whether all of the prompt except its last id is read."""
        return self.read == len(self.prompt) - 1


@dataclass(frozen=True, slots=True)
class Reading:
    """Prompt ids to read in a step, from `request.read` on."""

    request: Request
    ids: list[int]


class Stepper(Protocol):
    """A model with a number of places for streams. One thread uses it.

    Attributes:
        context: prompt and drawn ids of a stream.
        aligned: streams should begin to draw when the others are at slot 0, so that all share one
            pass over the head.
    """

    context: int
    aligned: bool

    def enter(self) -> None:
        """Called once on the thread that will step."""

    def join(self, request: Request) -> None:
        """Take a place for the request; there are as many as streams allowed. Its prompt is read by
        `step`."""

    def begin(self, request: Request) -> None:
        """The request is ready and draws from the next step on."""

    def leave(self, request: Request) -> None:
        """Free the place, whatever the request's state."""

    def step(self, drawing: Sequence[Request], reading: Reading | None) -> list[int]:
        """Draw one code (or STOP) for each request in `drawing`, in order, and read some ids of a
        prompt."""
        ...


News = list[tuple[Request, list[int], FinishReason | None]]

BEGINNING = 9 * SLOTS
"""Ids of a request that are told as soon as they complete a row of codes, so that the first sound
comes early: the codec's delay and half a second of speech. Then whole frames are told: to tell one
wakes the event loop and the request's task. Four streams cost 8 % less processor time so."""
COMPLETE_A_ROW = (3, 4, 6, 0)
"""Ids drawn, modulo SLOTS, after which the last one completes a row; see `FrameAssembler`."""


class Worker:
    """Runs a stepper on a thread of its own.

    Args:
        places: requests that have a place at once; the others wait, by priority, then in order of
            arrival.
        chunk: prompt ids read in a step.
        died: called on the loop when the thread ended by an exception.
    """

    def __init__(
        self,
        stepper: Stepper,
        *,
        audio_base: int,
        places: int,
        chunk: int,
        loop: asyncio.AbstractEventLoop,
        died: Callable[[Worker, EngineDied], None],
    ) -> None:
        self.stepper = stepper
        self._audio_base = audio_base
        self._limit = places
        self._chunk = chunk
        self._loop = loop
        self._died = died
        self._changed = threading.Condition()
        self._waiting: list[Request] = []
        self._stopping = False
        self._joining: list[Request] = []  # they have a place and do not draw yet
        self._running: list[Request] = []
        self.thread = WorkerThread(
            "orpheus-tokens",
            "the token generator",
            self._work,
            stop=self.stop,
            died=self._tell_death,
        )
        self.start = self.thread.start
        self.join = self.thread.join

    @property
    def holding(self) -> int:
        """Requests that have a place."""
        return len(self._running) + len(self._joining)

    def submit(self, request: Request) -> None:
        with self._changed:
            bisect.insort(self._waiting, request, key=lambda waiting: waiting.priority)
            self._changed.notify()

    def wake(self) -> None:
        """A request was aborted."""
        with self._changed:
            self._changed.notify()

    def stop(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def _work(self) -> None:
        self.stepper.enter()
        while self._wait():
            with self.thread:
                self._leave_aborted()
                self._join_waiting()
                self._begin_ready()
                reading = self._next_reading()
                if (self._running or reading) and (news := self._step(reading)):
                    self._call(_deliver, news)

    def _tell_death(self, error: EngineDied) -> None:
        self._call(self._died, self, error)

    def _wait(self) -> bool:
        """Wait until there is work. False if it is to stop."""
        with self._changed:
            while not (self._stopping or self._running or self._joining or self._waiting):
                self._changed.wait()
            return not self._stopping

    def _leave_aborted(self) -> None:
        for request in [r for r in (*self._running, *self._joining) if r.aborted]:
            self._leave(request)
        with self._changed:
            self._waiting = [r for r in self._waiting if not r.aborted]

    def _join_waiting(self) -> None:
        with self._changed:
            free = self._limit - self.holding
            joining, self._waiting = self._waiting[:free], self._waiting[free:]
        for request in joining:
            self.stepper.join(request)
            self._joining.append(request)

    def _begin_ready(self) -> None:
        """Begin ready requests. If the stepper is aligned, only when the running ones are at slot
        0."""
        if self.stepper.aligned and self._running and self._running[0].drawn % SLOTS:
            return
        for request in [r for r in self._joining if r.ready]:
            self.stepper.begin(request)
            self._joining.remove(request)
            self._running.append(request)

    def _next_reading(self) -> Reading | None:
        """Prompts are read one after the other, in the order in which their requests joined."""
        for request in self._joining:
            if not request.ready:
                return Reading(request, request.prompt[request.read : -1][: self._chunk])
        return None

    def _step(self, reading: Reading | None) -> News:
        codes = self.stepper.step(self._running, reading)
        if reading is not None:
            reading.request.read += len(reading.ids)
        news: News = []
        for request, code in zip(self._running, codes, strict=True):
            finish: FinishReason | None = None
            if code == STOP:
                finish = "stop"
            else:
                slot = request.drawn % SLOTS
                request.untold.append(self._audio_base + CODES * slot + code)
                if request.drawn + 1 >= request.limit:
                    finish = "length"
            request.drawn += 1
            told = request.drawn % SLOTS in (COMPLETE_A_ROW if request.drawn < BEGINNING else (0,))
            if told or finish is not None:
                news.append((request, request.untold, finish))
                request.untold = []
        for request, _, finish in news:
            if finish is not None:
                self._leave(request)
        return news

    def _leave(self, request: Request) -> None:
        self.stepper.leave(request)
        (self._running if request in self._running else self._joining).remove(request)

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            if not self._loop.is_closed():  # a closed loop has no consumer
                raise
            self._stopping = True


def _deliver(news: News) -> None:
    """Give a step's ids to their requests. On the event loop."""
    for request, ids, finish in news:
        request.put(ids, finish)
