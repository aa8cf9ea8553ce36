"""Real generators, wrapped, so that a test can watch their requests or tamper with them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

from orpheus_plugin.errors import EngineDied
from orpheus_plugin.tokens.base import SamplingParams, TokenChunk, TokenGenerator

G = TypeVar("G", bound=TokenGenerator)


@asynccontextmanager
async def started(generator: TokenGenerator) -> AsyncIterator[TokenGenerator]:
    await generator.start()
    try:
        yield generator
    finally:
        await generator.aclose()


class Wrapper(Generic[G]):
    """Passes everything on to `inner`. A subclass tampers with `passed`.

    Attributes:
        adapter: of requests that ask for none.
    """

    adapter: str | None = None

    def __init__(self, inner: G) -> None:
        self.inner = inner

    async def start(self) -> None:
        await self.inner.start()

    async def aclose(self) -> None:
        await self.inner.aclose()

    @property
    def running(self) -> int:
        return self.inner.running

    @property
    def failure(self) -> EngineDied | None:
        return self.inner.failure

    def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingParams,
        request_id: str,
        *,
        priority: int = 0,
        adapter: str | None = None,
    ) -> AsyncIterator[TokenChunk]:
        return self.passed(
            request_id,
            self.inner.generate(
                prompt_ids,
                sampling,
                request_id,
                priority=priority,
                adapter=adapter or self.adapter,
            ),
        )

    def passed(
        self, request_id: str, chunks: AsyncIterator[TokenChunk]
    ) -> AsyncIterator[TokenChunk]:
        """What is passed on of a request's chunks."""
        return chunks
