"""Ids of a request that its consumer has not taken yet. Used on one event loop."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from orpheus_plugin.errors import OrpheusError
from orpheus_plugin.tokens.base import FinishReason, TokenChunk


@dataclass(eq=False, slots=True, kw_only=True)
class Arrivals:
    """The ids of one request for its consumer, and how it ended.

    Attributes:
        arrived: ids that came and were not taken.
        finish_reason: set with the last ids.
        error: the error that ended the request.
    """

    arrived: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    error: OrpheusError | None = None
    _news: asyncio.Event = field(default_factory=asyncio.Event, init=False, repr=False)

    @property
    def over(self) -> bool:
        """Whether nothing more comes."""
        return self.finish_reason is not None or self.error is not None

    def put(self, ids: list[int], finish_reason: FinishReason | None) -> None:
        """Add ids, perhaps the last."""
        self.arrived += ids
        self.finish_reason = finish_reason
        self._news.set()

    def fail(self, error: OrpheusError | None) -> None:
        """End the request with this error, unless it has ended."""
        if not self.over:
            self.error = error
            self._news.set()

    async def take(self) -> TokenChunk:
        """All ids since the last call; waits for at least one. After the chunk with a
        `finish_reason` nothing comes.

        Raises `error` when all ids before it are taken.
        """
        while not (self.arrived or self.over):
            self._news.clear()
            await self._news.wait()
        if self.arrived or self.finish_reason is not None:
            ids, self.arrived = self.arrived, []
            return TokenChunk(ids, self.finish_reason)
        assert self.error is not None
        raise self.error
