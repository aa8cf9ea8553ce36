"""The two streams LiveKit Agents knows. Each attempt of either is one Turn of the engine."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from enum import Enum
from typing import TYPE_CHECKING

from livekit.agents import APIConnectionError, APIConnectOptions, tokenize, tts, utils
from livekit.agents.types import TimedString

from orpheus_plugin.errors import OrpheusError, TextTooLong, TurnClosed
from orpheus_plugin.livekit.api_errors import is_about_one_turn, to_api_error
from orpheus_plugin.livekit.stall_timeout import Patience
from orpheus_plugin.turn import SAMPLE_RATE, AudioChunk, Turn, TurnEnd, Word

if TYPE_CHECKING:
    from orpheus_plugin.livekit.tts import OrpheusTTS


class _Flush(Enum):
    FLUSH = 0


FLUSH = _Flush.FLUSH
Pieces = AsyncGenerator[str | _Flush, None]

_SILENCE = bytes(2 * (SAMPLE_RATE // 10))
"""What text without a speakable word sounds like. LiveKit takes no audio at all for a failure."""


class OrpheusSynthesizeStream(tts.SynthesizeStream):
    """Text as it comes from the language model in, speech out."""

    def __init__(self, *, tts: OrpheusTTS, conn_options: APIConnectOptions) -> None:
        super().__init__(tts=tts, conn_options=conn_options)
        self._orpheus = tts
        self._speech = tts.speech_options

    async def _run(self, output_emitter: tts.AudioEmitter) -> None:
        await _Attempt(self, self._orpheus, output_emitter).speak(self._pieces(output_emitter))

    async def _pieces(self, emitter: tts.AudioEmitter) -> Pieces:
        sentences = self._orpheus.sentence_stream(emitter)
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
        self, *, tts: OrpheusTTS, input_text: str, conn_options: APIConnectOptions
    ) -> None:
        super().__init__(tts=tts, input_text=input_text, conn_options=conn_options)
        self._orpheus = tts
        self._speech = tts.speech_options

    async def _run(self, output_emitter: tts.AudioEmitter) -> None:
        await _Attempt(self, self._orpheus, output_emitter).speak(self._pieces())

    async def _pieces(self) -> Pieces:
        yield self._input_text

    def _emit_error(self, api_error: Exception, recoverable: bool) -> None:
        super()._emit_error(api_error, recoverable or is_about_one_turn(api_error))


class _Attempt:
    """One try at speaking a segment. What it knows begins and ends with it, so that a retry starts clean."""

    def __init__(
        self,
        stream: OrpheusSynthesizeStream | OrpheusChunkedStream,
        orpheus: OrpheusTTS,
        emitter: tts.AudioEmitter,
    ) -> None:
        self._stream = stream
        self._tts = orpheus
        self._emitter = emitter
        self._streamed = isinstance(stream, tts.SynthesizeStream)
        self._turn: Turn | None = None
        self._spoke = False
        self._feeding_failed: Exception | None = None

    async def speak(self, pieces: Pieces) -> None:
        try:
            async with contextlib.aclosing(pieces):
                first = await _first_words(pieces)
                if first is None:
                    self._initialize(utils.shortuuid())
                    return
                if isinstance(self._stream, tts.SynthesizeStream):
                    self._stream._mark_started()
                async with asyncio.timeout(None) as limit:
                    await self._converse(first, pieces, limit)
        except Exception as error:
            raise to_api_error(error, request_id=self._turn.id if self._turn else "") from None

    async def _converse(self, first: str, pieces: Pieces, limit: asyncio.Timeout) -> None:
        patience = Patience(limit, self._stream._conn_options.timeout)
        patience.connecting()
        lease = await self._tts.engine_source.acquire()
        self._stream._acquire_time = lease.waited_s
        self._stream._connection_reused = lease.reused
        turn = self._turn = lease.engine.open_turn(self._stream._speech)
        patience.opened()
        self._initialize(turn.id)
        feeding = asyncio.create_task(
            self._feed(turn, first, pieces, patience), name="orpheus-feed"
        )
        ended: TurnEnd | None = None
        try:
            async for event in turn:
                if isinstance(event, AudioChunk):
                    self._spoke = True
                    patience.audio(event.samples)
                    self._emitter.push(event.pcm)
                elif isinstance(event, Word):
                    self._emitter.push_timed_transcript(_timed(event))
                else:
                    ended = event
        finally:
            await utils.aio.cancel_and_wait(feeding)
            if ended is None:
                self._tts.abandon(turn)
        if self._feeding_failed is not None:
            raise self._feeding_failed
        if ended is None or ended.reason == "cancelled":
            raise APIConnectionError("the speech engine dropped the turn")
        self._stream._set_token_usage(
            input_tokens=ended.stats.prompt_tokens, output_tokens=ended.stats.tokens
        )
        if not self._spoke:
            self._emitter.push(_SILENCE)

    async def _feed(self, turn: Turn, first: str, pieces: Pieces, patience: Patience) -> None:
        try:
            turn.push_text(first)
            patience.text(first)
            async for piece in pieces:
                if piece is FLUSH:
                    turn.flush()
                    patience.flushed()
                else:
                    turn.push_text(piece)
                    patience.text(piece)
        except TurnClosed:
            return  # the turn is over; its events say why
        except TextTooLong as error:
            self._feeding_failed = error  # what was taken before it is spoken to its end
        except Exception as error:
            self._feeding_failed = error
            await turn.cancel()
            return
        patience.ended()
        with contextlib.suppress(OrpheusError):
            turn.end()

    def _initialize(self, request_id: str) -> None:
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
    """The text up to its first word, or None if none comes: a turn is opened only when there is something to say."""
    blank = ""
    async for piece in pieces:
        if piece is FLUSH:
            continue
        if piece.strip():
            return blank + piece
        blank += piece
    return None


def _timed(word: Word) -> TimedString:
    """With the space that separates it from the next word: transcripts are these strings joined."""
    text = word.text + " " if word.space_after else word.text
    return TimedString(text, start_time=word.start_s, end_time=word.end_s)
