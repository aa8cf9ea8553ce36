"""One utterance on its way: prompt -> tokens -> latents -> samples -> trimmed samples. Runs on the engine's loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from orpheus_plugin.engine.runaway import RunawayGuard, token_ceiling
from orpheus_plugin.engine.trim import LeadingTrim, Samples
from orpheus_plugin.errors import GenerationFailed, OrpheusError
from orpheus_plugin.text.cutter import Utterance
from orpheus_plugin.tokens.base import SamplingParams, TokenChunk, TokenGenerator
from orpheus_plugin.tokens.frames import FrameAssembler
from orpheus_plugin.tokens.vocabulary import Vocabulary
from orpheus_plugin.turn import SAMPLE_RATE, SpeechOptions, TurnStats

if TYPE_CHECKING:
    from orpheus_plugin.codec.batcher import CodecBatcher, CodecStream

logger = logging.getLogger(__name__)

ATTEMPTS = 2
"""An utterance that went wrong before anything of it was heard is begun anew this often in all."""


@dataclass(frozen=True, slots=True)
class Stages:
    """The engine's running parts, as an utterance needs them."""

    vocabulary: Vocabulary
    generator: TokenGenerator
    codec: CodecBatcher
    sampling: SamplingParams


class Synthesis:
    """Generates one utterance into `out`.

    Args:
        priority: see TokenGenerator.generate.
        sounds: called when there is audio in `out`.
        wake: called when all of it is generated, and when it is done.

    Attributes:
        out: float32 arrays of audio to emit, in order.
        generated: the token generator has finished this utterance.
        done: nothing more will be put into `out`.
        error: why it failed; set only with `done`.
        ready_at: time.monotonic() when its text was there.
    """

    def __init__(
        self,
        stages: Stages,
        utterance: Utterance,
        *,
        request_id: str,
        voice: str | None,
        options: SpeechOptions,
        index: int,
        priority: int,
        ready_at: float,
        stats: TurnStats,
        sounds: Callable[[Synthesis], None],
        wake: Callable[[], None],
    ) -> None:
        self.utterance = utterance
        self.index = index
        self.ready_at = ready_at
        self.out: deque[Samples] = deque()
        self.generated = False
        self.done = False
        self.error: OrpheusError | None = None
        self._stages = stages
        self._request_id = request_id
        self._voice = voice
        self._options = options
        self._priority = priority
        self._stats = stats
        self._sounds = sounds
        self._wake = wake
        self._sent = False
        self._stream: CodecStream | None = None
        self._deadline = ready_at
        self._task = asyncio.create_task(self._run(), name=f"orpheus-{request_id}")

    def set_deadline(self, deadline: float) -> None:
        """time.monotonic() at which the listener runs dry without this utterance's next audio."""
        self._deadline = deadline
        if self._stream is not None:
            self._stream.deadline = deadline

    async def aclose(self) -> None:
        """Stop and free the generator's and the codec's slots. Idempotent."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            for attempt in range(ATTEMPTS):
                reason = await self._attempt(attempt)
                if reason is None:
                    break
                if self._sent:
                    self._stats.cut_short += 1
                    logger.warning("%s: cut short: %s", self._request_id, reason)
                    break
                if attempt + 1 < ATTEMPTS:
                    self._stats.retries += 1
                    logger.warning("%s: begun anew: %s", self._request_id, reason)
                else:
                    raise GenerationFailed(
                        f"the model gave no usable speech for an utterance of"
                        f" {len(self.utterance.text)} characters: {reason}"
                    )
        except OrpheusError as error:
            self.error = error
        except Exception as error:  # a bug of ours must not hang the turn
            logger.exception("%s: failed", self._request_id)
            self.error = OrpheusError(f"internal error while speaking: {error!r}")
            self.error.__cause__ = error
        finally:
            self.generated = self.done = True
            self._wake()

    async def _attempt(self, attempt: int) -> str | None:
        """Speak the utterance once. None if it went well, else what went wrong."""
        options, stages = self._options, self._stages
        seed = None if options.seed is None else options.seed + self.index + 1_000_003 * attempt
        stream = stages.codec.open_stream(
            seed=secrets.randbits(31) if seed is None else seed % 2**31
        )
        stream.deadline = self._deadline
        self._stream = stream
        guard = RunawayGuard()
        trim = LeadingTrim(enabled=options.trim_leading_silence)
        pump = asyncio.create_task(self._pump(stream, guard, seed, attempt))
        try:
            cut: str | None = None
            async for samples in stream:
                cut = guard.push_audio(samples)
                kept = trim.push(samples)
                if kept.size:
                    self.out.append(kept)
                    self._sent = True
                    self._sounds(self)
                if cut is not None:
                    return cut
            reason = await pump
            trim.finish()
            self._stats.trimmed_s += trim.trimmed / SAMPLE_RATE
            if reason is None and not self._sent:
                return "no audible sound"
            return reason
        finally:
            pump.cancel()
            stream.close()
            self._stream = None
            await asyncio.gather(pump, return_exceptions=True)

    async def _pump(
        self, stream: CodecStream, guard: RunawayGuard, seed: int | None, attempt: int
    ) -> str | None:
        """Tokens into the codec. The stream always gets its end, so that its reader never waits in vain."""
        stages = self._stages
        text = self.utterance.text
        assembler = FrameAssembler(stages.vocabulary)
        sampling = replace(
            self._sampling(),
            max_tokens=min(stages.sampling.max_tokens, token_ceiling(text)),
            seed=seed,
        )
        reason: str | None = None
        try:
            prompt = stages.vocabulary.prompt(self._voice, text)
            self._stats.prompt_tokens += len(prompt)
            tokens = cast(
                "AsyncGenerator[TokenChunk, None]",
                stages.generator.generate(
                    prompt,
                    sampling,
                    self._request_id if attempt == 0 else f"{self._request_id}-retry{attempt}",
                    priority=self._priority,
                ),
            )
            async with contextlib.aclosing(tokens):
                async for chunk in tokens:
                    self._stats.tokens += len(chunk.ids)
                    latents = assembler.push(chunk.ids)
                    if len(latents):
                        stream.push(latents)
                        reason = guard.push_latents(latents)
                        if reason is not None:
                            break
                    if chunk.finish_reason == "length":
                        reason = f"no end after {sampling.max_tokens} tokens"
            assembler.finish()
            if reason is None and not assembler.frames:
                reason = "not one whole frame of audio"
            return reason
        finally:
            self._stats.skipped_ids += assembler.out_of_order + assembler.foreign
            self.generated = True
            stream.finish()
            self._wake()

    def _sampling(self) -> SamplingParams:
        asked = {
            name: value
            for name in ("temperature", "top_p", "repetition_penalty")
            if (value := getattr(self._options, name)) is not None
        }
        return replace(self._stages.sampling, **asked)
