"""The generation of one utterance: prompt -> tokens -> codes -> samples -> trimmed samples. Runs on
the engine's loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

from orpheus_plugin.engine.runaway import RunawayGuard, token_ceiling
from orpheus_plugin.engine.trim import LeadingTrim, Samples
from orpheus_plugin.errors import EngineDied, GenerationFailed
from orpheus_plugin.events import SAMPLE_RATE, TurnStats
from orpheus_plugin.models.adapters import AdapterVoice
from orpheus_plugin.options import SpeechOptions
from orpheus_plugin.text.cutter import Utterance
from orpheus_plugin.tokens.base import SamplingParams, TokenChunk, TokenGenerator
from orpheus_plugin.tokens.frames import FrameAssembler
from orpheus_plugin.tokens.phrases import CachedGenerator
from orpheus_plugin.tokens.vocabulary import Vocabulary

if TYPE_CHECKING:
    from orpheus_plugin.codec.batcher import CodecBatcher
    from orpheus_plugin.codec.stream import CodecStream

logger = logging.getLogger(__name__)

ATTEMPTS = 2
"""How often an utterance is tried if it goes wrong before any of its audio was delivered."""


@dataclass(frozen=True, slots=True)
class EngineParts:
    """The engine's running parts, as an utterance needs them; `adapters` are the voices that the
    generator has as such."""

    vocabulary: Vocabulary
    generator: TokenGenerator
    codec: CodecBatcher
    sampling: SamplingParams
    adapters: Mapping[str, AdapterVoice] = field(default_factory=dict)

    @property
    def uncached(self) -> EngineParts:
        """The same without the phrase cache."""
        generator = self.generator
        if isinstance(generator, CachedGenerator):
            return replace(self, generator=generator.inner)
        return self

    def discard(self, request_id: str) -> None:
        """The ids of this request are not usable and must not be replayed."""
        if isinstance(self.generator, CachedGenerator):
            self.generator.discard(request_id)

    @property
    def failure(self) -> EngineDied | None:
        """Why they can no longer be used; None while all of them work. From any thread."""
        return self.generator.failure or self.codec.failure


class UtteranceJob:
    """Generates and decodes one utterance, from its creation on.

    Iterating gives its audio in order, once: float32 [n] at 24 kHz, leading silence trimmed. It
    raises GenerationFailed when the model gave no usable speech (then nothing was given),
    EngineDied, or what else went wrong. Audio waits here without limit for its reader; an
    utterance's length is bounded by `token_ceiling`.

    Args:
        options: of the turn. Utterance and attempt each have a seed of their own that follows from
            the turn's.
        index: of the utterance in its turn.
        ready_at: time.monotonic() when its text was there.
        priority: see TokenGenerator.generate.
        deadline: gives the time.monotonic() at which the listener needs this utterance's next
            audio.

    Attributes:
        utterance, index, ready_at: as they were given.
        stats: what it cost; complete once iterating has ended or `aclose` has returned.
        generated: done when the token generator has finished this utterance.
    """

    def __init__(
        self,
        parts: EngineParts,
        utterance: Utterance,
        *,
        request_id: str,
        voice: str | None,
        options: SpeechOptions,
        index: int,
        ready_at: float,
        priority: int,
        deadline: Callable[[], float],
    ) -> None:
        self.utterance = utterance
        self.index = index
        self.ready_at = ready_at
        self.stats = TurnStats()
        self.generated: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._parts = parts
        self._request_id = request_id
        self._voice = voice
        self._options = options
        self._priority = priority
        self._deadline = deadline
        self._sounded = False
        self._out: asyncio.Queue[Samples | None] = asyncio.Queue()
        self._task = asyncio.create_task(self._run(), name=f"orpheus-{request_id}")

    async def __aiter__(self) -> AsyncIterator[Samples]:
        while (samples := await self._out.get()) is not None:
            yield samples
            if not self._out.empty():  # of an utterance that was generated ahead
                await asyncio.sleep(0)  # let other turns go on
        await self._task  # raises the error, if there was one

    def stop(self) -> None:
        """Stop generating and decoding; the places of both are freed within a step. Idempotent."""
        self._task.cancel()

    async def aclose(self) -> None:
        """`stop`; returns when generator and codec have freed their places."""
        self.stop()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            for attempt in range(ATTEMPTS):
                trouble = await self._attempt(attempt)
                if trouble is None:
                    return
                self._parts.discard(self._request(attempt))
                if self._sounded:
                    self.stats.cut_short += 1
                    logger.warning("%s: cut short: %s", self._request_id, trouble)
                    return
                if attempt + 1 < ATTEMPTS:
                    self.stats.retries += 1
                    logger.warning("%s: generated again: %s", self._request_id, trouble)
            raise GenerationFailed(
                f"the model gave no usable speech for an utterance of"
                f" {len(self.utterance.text)} characters: {trouble}"
            )
        finally:
            self._note_generated()
            self._out.put_nowait(None)

    def _request(self, attempt: int) -> str:
        return f"{self._request_id}-retry{attempt}" if attempt else self._request_id

    def _note_generated(self) -> None:
        if not self.generated.done():
            self.generated.set_result(None)

    async def _attempt(self, attempt: int) -> str | None:
        """Speak the utterance once. Returns None if it went well, else what went wrong."""
        sampling = self._sampling(attempt)
        stream = self._parts.codec.open_stream(
            seed=secrets.randbits(31) if sampling.seed is None else sampling.seed % 2**31,
            deadline=self._deadline,
        )
        guard = RunawayGuard()
        trim = LeadingTrim(enabled=self._options.trim_leading_silence)
        generating = asyncio.create_task(self._generate(stream, guard, sampling, attempt))
        try:
            async for samples in stream:
                trouble = guard.push_audio(samples)
                kept = trim.push(samples)
                if kept.size:
                    self._out.put_nowait(kept)
                    self._sounded = True
                if trouble is not None:
                    return trouble
            trouble = await generating
            trim.finish()
            self.stats.trimmed_s += trim.trimmed / SAMPLE_RATE
            if trouble is None and not self._sounded:
                return "no audible sound"
            return trouble
        finally:
            generating.cancel()
            stream.close()
            await asyncio.gather(generating, return_exceptions=True)

    async def _generate(
        self, stream: CodecStream, guard: RunawayGuard, sampling: SamplingParams, attempt: int
    ) -> str | None:
        """Pass tokens to the codec. The stream always gets its end, so that its reader always
        ends."""
        assembler = FrameAssembler(self._parts.vocabulary)
        trouble: str | None = None
        try:
            adapter = self._parts.adapters.get(self._voice or "")
            named = self._voice if adapter is None else adapter.prompt
            prompt = self._parts.vocabulary.prompt(named, self.utterance.text)
            self.stats.prompt_tokens += len(prompt)
            tokens = cast(
                "AsyncGenerator[TokenChunk, None]",
                self._parts.generator.generate(
                    prompt,
                    sampling,
                    self._request(attempt),
                    priority=self._priority,
                    adapter=None if adapter is None else self._voice,
                ),
            )
            async with contextlib.aclosing(tokens):
                async for chunk in tokens:
                    self.stats.tokens += len(chunk.ids)
                    codes = assembler.push(chunk.ids)
                    if len(codes):
                        stream.push(codes)
                        trouble = guard.push_codes(codes)
                        if trouble is not None:
                            break
                    if chunk.finish_reason == "length":
                        trouble = f"no end after {sampling.max_tokens} tokens"
            if trouble is None and not assembler.frames:
                trouble = "not one whole frame of audio"
            return trouble
        finally:
            self.stats.skipped_ids += assembler.out_of_order + assembler.foreign
            self._note_generated()
            stream.finish()

    def _sampling(self, attempt: int) -> SamplingParams:
        default, options = self._parts.sampling, self._options
        asked = {
            name: value
            for name in ("temperature", "top_p", "repetition_penalty")
            if (value := getattr(options, name)) is not None
        }
        seed = options.seed
        return replace(
            default,
            **asked,
            max_tokens=min(default.max_tokens, token_ceiling(self.utterance.text)),
            seed=None if seed is None else seed + self.index + 1_000_003 * attempt,
        )
