"""The contract of a token generator: prompt ids in, chunks of audio ids out, abort by closing the
iterator."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from orpheus_plugin.errors import EngineDied
from orpheus_plugin.sampling import SamplingParams

__all__ = ["FinishReason", "SamplingParams", "TokenChunk", "TokenGenerator"]

FinishReason = Literal["stop", "length", "abort"]


@dataclass(frozen=True, slots=True)
class TokenChunk:
    """Newly generated ids, in order, without the stop id.

    `ids` is empty only in the last chunk (a stop id that came alone). `finish_reason` is set in the
    last chunk only.
    """

    ids: Sequence[int]
    finish_reason: FinishReason | None = None


@runtime_checkable
class TokenGenerator(Protocol):
    """A source of Orpheus tokens that batches its requests.

    All methods run on the event loop that called `start`. `generate` never blocks it: model work
    happens on another thread, process or machine.
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
        adapter: str | None = None,
    ) -> AsyncIterator[TokenChunk]:
        """Generate until the stop id or `sampling.max_tokens`, with one of the generator's adapters
        or with none.

        Of requests that wait for a place, those with the lowest `priority` go first, equal ones in
        order of arrival. Requests that have a place advance together, whatever their priority.

        Closing the iterator (`aclose`, or leaving it by cancellation) aborts in the engine within
        one step. Raises InvalidOptions for ids outside the vocabulary, a duplicate request id, an
        unknown adapter, or a prompt that does not fit; EngineDied when the engine dies, also for
        every other request running on it.
        """
        ...

    @property
    def running(self) -> int:
        """Requests that have a place in the engine now."""
        ...

    @property
    def failure(self) -> EngineDied | None:
        """Why it no longer generates: dead, hanging, or not started; None while it works.

        Cheap: it is read from any thread several times a second, and by health checks.
        """
        ...
