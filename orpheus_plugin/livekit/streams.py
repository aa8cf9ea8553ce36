"""The two kinds of streams of LiveKit Agents. Each attempt of a stream is one Reply."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from livekit.agents import APIConnectionError, APIConnectOptions, tokenize, tts, utils
from livekit.agents.types import TimedString

from orpheus_plugin.events import SAMPLE_RATE, AudioChunk, Word
from orpheus_plugin.livekit.api_errors import is_about_one_turn, to_api_error
from orpheus_plugin.livekit.stall_timeout import StallTimeout
from orpheus_plugin.options import SpeechOptions
from orpheus_plugin.reply import PLACE_WAIT_S, Reply
from orpheus_plugin.speech_engine import SpeechEngine
from orpheus_plugin.text.cutter import TextOptions, UtteranceCutter
from orpheus_plugin.turn import Turn


class _Flush(Enum):
    FLUSH = 0


FLUSH = _Flush.FLUSH
Pieces = AsyncGenerator[str | _Flush, None]

_LOOKED_AT = 300
"""Characters within which the first utterance certainly ends."""


@dataclass(frozen=True, slots=True)
class Speaker:
    """What a stream needs of its TTS.

    Attributes:
        engine: opens its turns.
        options: gives the options of its turns.
        sentences: LiveKit's own cutting of the text, if the application asked for it.
        abandon: makes the engine drop a turn, without waiting for it.
    """

    engine: SpeechEngine
    options: SpeechOptions
    sentences: Callable[[tts.AudioEmitter], tokenize.SentenceStream | None]
    abandon: Callable[[Turn], None]


class OrpheusSynthesizeStream(tts.SynthesizeStream):
    """Text as it comes from the language model in, speech out."""

    def __init__(
        self, *, tts: tts.TTS[Any], conn_options: APIConnectOptions, speaker: Speaker
    ) -> None:
        super().__init__(tts=tts, conn_options=conn_options)
        self._speaker = speaker

    async def _run(self, output_emitter: tts.AudioEmitter) -> None:
        await _Attempt(self, self._speaker, output_emitter).speak(self._pieces(output_emitter))

    async def _pieces(self, emitter: tts.AudioEmitter) -> Pieces:
        sentences = self._speaker.sentences(emitter)
        if sentences is None:
            async for data in self._input_ch:
                yield data if isinstance(data, str) else FLUSH
            return
        forward = asyncio.create_task(self._forward(sentences), name="orpheus-sentences")
        try:
            async for sentence in sentences:
                text = sentence.token
                yield text if text[-1:].isspace() else text + " "
                yield FLUSH
            await forward
        finally:
            await utils.aio.cancel_and_wait(forward)
            await sentences.aclose()

    async def _forward(self, sentences: tokenize.SentenceStream) -> None:
        async for data in self._input_ch:
            if isinstance(data, str):
                sentences.push_text(data)
            else:
                sentences.flush()
        sentences.end_input()

    def _emit_error(self, api_error: Exception, recoverable: bool) -> None:
        super()._emit_error(api_error, recoverable or is_about_one_turn(api_error))


class OrpheusChunkedStream(tts.ChunkedStream):
    """A whole text in, speech out as it is made."""

    def __init__(
        self,
        *,
        tts: tts.TTS[Any],
        input_text: str,
        conn_options: APIConnectOptions,
        speaker: Speaker,
    ) -> None:
        super().__init__(tts=tts, input_text=input_text, conn_options=conn_options)
        self._speaker = speaker

    async def _run(self, output_emitter: tts.AudioEmitter) -> None:
        await _Attempt(self, self._speaker, output_emitter).speak(self._pieces())

    async def _pieces(self) -> Pieces:
        yield self._input_text

    def _emit_error(self, api_error: Exception, recoverable: bool) -> None:
        super()._emit_error(api_error, recoverable or is_about_one_turn(api_error))


class _Attempt:
    """One attempt to speak a segment. Its state is its own, so that a retry starts clean."""

    def __init__(
        self,
        stream: OrpheusSynthesizeStream | OrpheusChunkedStream,
        speaker: Speaker,
        emitter: tts.AudioEmitter,
    ) -> None:
        self._stream = stream
        self._speaker = speaker
        self._emitter = emitter
        self._streamed = isinstance(stream, tts.SynthesizeStream)
        timeout_s = stream._conn_options.timeout
        # A refusal must come before LiveKit's timeout.
        max_wait_s = min(PLACE_WAIT_S, 0.8 * timeout_s)
        self._reply = Reply(
            lambda: speaker.engine.open_turn(speaker.options, max_wait_s=max_wait_s)
        )
        self._first_utterance: UtteranceCutter | None = UtteranceCutter(
            TextOptions(
                tags=frozenset(speaker.engine.tags),
                spell_numbers=False,
                language=(*speaker.engine.languages, "en")[0],
            )
        )
        self._ends_in_space = False  # the text
        self._feeding_failed: Exception | None = None

    async def speak(self, pieces: Pieces) -> None:
        try:
            async with contextlib.aclosing(pieces):
                first = await _first_words(pieces)
                if first is None:
                    self._initialize()
                    return
                async with asyncio.timeout(None) as limit:
                    due = StallTimeout(limit, self._stream._conn_options.timeout)
                    await self._connect(due)
                    await self._converse(first, pieces, due)
        except Exception as error:
            raise to_api_error(error, request_id=self._reply.id or "") from None

    async def _connect(self, due: StallTimeout) -> None:
        """If the attempt is cancelled, the engine still connects, or loads, for the next one."""
        due.connecting()
        engine = self._speaker.engine
        reused, began = engine.health().ready, time.perf_counter()
        await engine.start()
        self._stream._acquire_time = 0.0 if reused else time.perf_counter() - began
        self._stream._connection_reused = reused
        due.connected()

    async def _converse(self, first: str, pieces: Pieces, due: StallTimeout) -> None:
        self._push(first, due)
        self._initialize()
        feeding = asyncio.create_task(self._feed(pieces, due), name="orpheus-feed")
        prompt_tokens = tokens = 0
        last: Word | None = None
        try:
            async with contextlib.aclosing(self._reply.events()) as events:
                async for event in events:
                    if isinstance(event, AudioChunk):
                        self._speakable(due)
                        due.audio(event.duration_s)
                        self._emitter.push(event.pcm)
                    elif isinstance(event, Word):
                        self._emitter.push_timed_transcript(_timed(event, last))
                        last = event
                    elif isinstance(event, Exception):
                        raise event
                    elif event.reason == "cancelled":
                        raise self._feeding_failed or APIConnectionError(
                            "the speech engine dropped the turn"
                        )
                    else:
                        prompt_tokens += event.stats.prompt_tokens
                        tokens += event.stats.tokens
            if last is not None and self._ends_in_space:  # another segment may follow
                space = TimedString(" ", start_time=last.end_s, end_time=last.end_s)
                self._emitter.push_timed_transcript(space)
        finally:
            await utils.aio.cancel_and_wait(feeding)
            for turn in self._reply.abandon():
                self._speaker.abandon(turn)
        self._stream._set_token_usage(input_tokens=prompt_tokens, output_tokens=tokens)

    async def _feed(self, pieces: Pieces, due: StallTimeout) -> None:
        try:
            async for piece in pieces:
                if piece is FLUSH:
                    self._reply.flush()
                    self._speakable(due)
                else:
                    self._push(piece, due)
        except Exception as error:
            self._feeding_failed = error
            for turn in self._reply.abandon():
                await turn.cancel()
        else:
            self._speakable(due)
        due.ended()
        self._reply.end()

    def _push(self, text: str, due: StallTimeout) -> None:
        self._reply.push_text(text)
        self._ends_in_space = text[-1:].isspace()
        if self._first_utterance is not None and (
            len(text) > _LOOKED_AT or self._first_utterance.push(text)
        ):
            self._speakable(due)

    def _speakable(self, due: StallTimeout) -> None:
        """The engine has text that it can speak: LiveKit's time to first byte counts from here."""
        if self._first_utterance is None:
            return
        self._first_utterance = None
        due.speakable()
        if isinstance(self._stream, tts.SynthesizeStream):
            self._stream._mark_started()

    def _initialize(self) -> None:
        request_id = self._reply.id or utils.shortuuid()
        self._emitter.initialize(
            request_id=request_id,
            sample_rate=SAMPLE_RATE,
            num_channels=1,
            mime_type="audio/pcm",
            stream=self._streamed,
        )
        if self._streamed:
            self._emitter.start_segment(segment_id=request_id)
        else:
            self._emitter._note_provider_request_id(request_id)


async def _first_words(pieces: Pieces) -> str | None:
    """The text up to its first word, or None if none comes: a turn is opened only for text that can
    be spoken."""
    blank = ""
    async for piece in pieces:
        if piece is FLUSH:
            continue
        if piece.strip():
            return blank + piece
        blank += piece
    return None


def _timed(word: Word, before: Word | None) -> TimedString:
    """A word, behind the space that parts it from the one before it: transcripts are these strings
    joined, and end as their text does."""
    gap = " " if before is not None and before.space_after else ""
    return TimedString(gap + word.text, start_time=word.start_s, end_time=word.end_s)
