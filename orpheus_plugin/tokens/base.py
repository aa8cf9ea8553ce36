"""The contract of a token generator: prompt ids in, chunks of audio ids out, abort by closing the iterator."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

FinishReason = Literal["stop", "length", "abort"]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How ids are drawn. Defaults are those of Orpheus 3B, which needs a repetition penalty >= 1.1 to be stable
    (canopyai/Orpheus-TTS README, "Prompting").

    Attributes:
        temperature: 0 is greedy.
        top_p: nucleus mass, in (0, 1].
        repetition_penalty: 1 is none; over ids already generated (the prompt holds no audio ids).
        max_tokens: ceiling on generated ids; reaching it finishes with "length".
        seed: None draws a fresh one; equal seeds give equal ids on the same engine for single requests.
    """

    temperature: float = 0.6
    top_p: float = 0.8
    repetition_penalty: float = 1.1
    max_tokens: int = 2048
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class TokenChunk:
    """Newly generated ids, in order. Never holds the stop id.

    `ids` is empty only in the last chunk (a stop id that came alone). `finish_reason` is set in the last chunk only.
    """

    ids: Sequence[int]
    finish_reason: FinishReason | None = None


@runtime_checkable
class TokenGenerator(Protocol):
    """A source of Orpheus tokens that batches its requests.

    All methods run on the event loop that called `start`. `generate` never blocks it: model work happens on another
    thread, process or machine.
    """

    async def start(self) -> None:
        """Load and warm up. Raises ModelNotFound, BadCheckpoint or EngineDied."""

    async def aclose(self) -> None:
        """Stop everything; running requests end with EngineDied. Idempotent."""

    def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingParams,
        request_id: str,
        *,
        priority: int = 0,
    ) -> AsyncIterator[TokenChunk]:
        """Generate until the stop id or `sampling.max_tokens`.

        Where requests wait for a place, those with the lowest `priority` go first, equal ones in order of arrival.
        Requests that hold a place advance together, whatever their priority.

        Closing the iterator (`aclose`, or leaving it by cancellation) aborts in the engine within one step.
        Raises InvalidOptions for ids outside the vocabulary, a duplicate request id, or a prompt that does not fit;
        EngineDied when the engine dies, also for every other request running on it.
        """
        ...

    @property
    def running(self) -> int:
        """Requests that hold a slot in the engine now."""
        ...
