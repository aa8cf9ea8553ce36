"""An engine that replays a recorded turn of a real voice, at a test's own speed."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from concurrent.futures import Future

from orpheus_plugin.events import AudioChunk, TurnEvent
from orpheus_plugin.options import SpeechOptions
from orpheus_plugin.speech_engine import EngineHealth, EngineLoad
from orpheus_plugin.turn import Turn


class RecordedEngine:
    """Every turn gives the recorded events, whatever its text.

    Args:
        events: of a whole turn.
        speed: seconds of audio made per second.
    """

    voices = ("tara",)
    adapters: tuple[str, ...] = ()
    languages = ("en",)
    tags = ("laugh",)

    def __init__(self, events: Sequence[TurnEvent], *, speed: float) -> None:
        self.events = events
        self.speed = speed
        self.active = 0

    async def start(self) -> None: ...
    async def aclose(self) -> None: ...

    def check_voice(self, voice: str | None) -> str | None:
        return self.voices[0]

    def health(self) -> EngineHealth:
        return EngineHealth(True, "recorded", "RecordedEngine", self.active, 8, 0)

    def load(self) -> EngineLoad:
        return EngineLoad(generating=self.active)

    def open_turn(self, options: SpeechOptions | None = None, *, max_wait_s: float = 0.0) -> Turn:
        link = _Link(self)
        link.turn = Turn(uuid.uuid4().hex[:8], link)
        link.task = asyncio.create_task(link.run())
        return link.turn


class _Link:
    turn: Turn
    task: asyncio.Task[None]

    def __init__(self, engine: RecordedEngine) -> None:
        self._engine = engine

    async def run(self) -> None:
        self._engine.active += 1
        try:
            for event in self._engine.events:
                if isinstance(event, AudioChunk):
                    await asyncio.sleep(event.duration_s / self._engine.speed)
                self.turn.deliver(event)
        finally:
            self._engine.active -= 1

    def send_text(self, text: str) -> None: ...
    def send_flush(self) -> None: ...
    def send_end(self) -> None: ...
    def consumed(self, samples: int) -> None: ...

    def send_cancel(self) -> Future[None]:
        done: Future[None] = Future()
        self.task.add_done_callback(lambda _: done.set_result(None))
        self.task.cancel()
        return done
