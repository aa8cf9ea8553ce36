"""What adapters and servers need of an engine, in this process or in a server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol

from orpheus_plugin.options import SpeechOptions
from orpheus_plugin.turn import Turn


@dataclass(frozen=True, slots=True)
class EngineHealth:
    """A snapshot for health checks and metrics.

    Attributes:
        active_turns: turns that have a place.
        max_turns: places that exist now.
        waiting: turns in line for a place.
        restarts: times a dead engine was started again.
        error: why it is not ready, if that is known.
    """

    ready: bool
    model: str
    generator: str
    active_turns: int
    max_turns: int
    restarts: int
    error: str | None = None
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """The load of an engine at the moment, for metrics and load balancing.

    Attributes:
        generating: utterances whose tokens are being generated: the size of the generator's batch.
        decoding: utterances that have a place in the codec.
        queued: utterances that wait to be generated.
        margin_s: seconds of audio left to the caller who has least; None when no turn is speaking.
        waiting: turns in line for a place.
        prebuffer_s: seconds of audio that turns begin with, so that they have no underruns on a
            slow machine.
        orphaned: turns, since the start, that were ended because their caller was gone.
        codec_steps: steps of the codec since the start.
        codec_eager_steps: how many of them had a shape that was not captured on the GPU; they take
            several times as long.
        cache_hits, cache_misses: utterances that came from the phrase cache, and that had to be
            generated although there is one.
        cached_s: seconds of audio that came from it.
        cache_bytes: bytes in the phrase cache.
    """

    generating: int = 0
    decoding: int = 0
    queued: int = 0
    margin_s: float | None = None
    waiting: int = 0
    prebuffer_s: float = 0.0
    orphaned: int = 0
    codec_steps: int = 0
    codec_eager_steps: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    cached_s: float = 0.0
    cache_bytes: int = 0

    @classmethod
    def of_all(cls, loads: Sequence[EngineLoad]) -> EngineLoad:
        """The load of several engines: the least margin, the longest prebuffer, the sum of
        everything else."""
        margins = [load.margin_s for load in loads if load.margin_s is not None]
        summed = {
            field.name: sum(getattr(load, field.name) for load in loads)
            for field in fields(cls)
            if field.name not in ("margin_s", "prebuffer_s")
        }
        return cls(
            **summed,
            margin_s=min(margins, default=None),
            prebuffer_s=max((load.prebuffer_s for load in loads), default=0.0),
        )


class SpeechEngine(Protocol):
    """What adapters and servers need. Methods may be called from any thread with a running event
    loop."""

    async def start(self) -> None:
        """Load and warm up; returns at once if it is running. Raises ModelNotFound, BadCheckpoint,
        ConnectionFailed..."""

    async def aclose(self) -> None:
        """End all turns and free everything. Idempotent."""

    def open_turn(self, options: SpeechOptions | None = None, *, max_wait_s: float = 0.0) -> Turn:
        """A new turn on the calling event loop.

        Args:
            max_wait_s: seconds the turn may wait in line for a place, first come first served. It
                takes text meanwhile. After that, iterating it raises AtCapacity. With 0 and no free
                place, AtCapacity is raised here at once (through a server: where the turn is
                iterated).

        Raises UnknownVoice, InvalidOptions, AtCapacity, EngineDied.
        """
        ...

    def check_voice(self, voice: str | None) -> str | None:
        """The voice that will speak. Raises UnknownVoice."""
        ...

    @property
    def voices(self) -> tuple[str, ...]:
        """The model's voices, the default first; empty when the model does not name them."""
        ...

    @property
    def adapters(self) -> tuple[str, ...]:
        """The voices that are LoRA adapters; the other ones of `voices` are the base model's
        own."""
        ...

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes ("en") of the languages the model speaks, the default first; empty when they are
        not known (yet)."""
        ...

    @property
    def tags(self) -> tuple[str, ...]:
        """Emotion tags the model knows, without brackets ("laugh"); empty when it knows none."""
        ...

    def health(self) -> EngineHealth: ...

    def load(self) -> EngineLoad: ...
