"""A session without a room: an audio output that keeps what it was given, a text output, and a
language model with fixed answers."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from livekit import rtc
from livekit.agents import Agent, AgentSession, llm, tts
from livekit.agents.tts._provider_format import TranscriptMarkupStripper
from livekit.agents.types import DEFAULT_API_CONNECT_OPTIONS, USERDATA_TIMED_TRANSCRIPT, TimedString
from livekit.agents.voice import io
from livekit.agents.voice.transcription import TranscriptSynchronizer


class Recorder(io.AudioOutput):
    """Discards audio in real time, and keeps every frame with its time."""

    def __init__(self) -> None:
        super().__init__(
            label="recorder",
            capabilities=io.AudioOutputCapabilities(pause=False),
            sample_rate=24_000,
        )
        self.frames: list[rtc.AudioFrame] = []
        self.first_at: float | None = None
        self.cleared_at: float | None = None
        self.played_s = 0.0
        self._pushed = 0.0
        self._began = 0.0
        self._end: asyncio.TimerHandle | None = None

    @property
    def pcm(self) -> bytes:
        return b"".join(bytes(frame.data) for frame in self.frames)

    @property
    def words(self) -> list[TimedString]:
        """As they came with the frames, with the times their TTS gave them."""
        return [
            word
            for frame in self.frames
            for word in frame.userdata.get(USERDATA_TIMED_TRANSCRIPT, [])
        ]

    async def plays(self, seconds: float) -> None:
        """Until so much has been heard."""
        async with asyncio.timeout(60):
            while min(self._pushed, time.time() - self._began) < seconds:
                await asyncio.sleep(0.01)

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        await super().capture_frame(frame)
        if not self._pushed:
            self._began = time.time()
            self.first_at = self.first_at or time.perf_counter()
            self.on_playback_started(created_at=self._began)
        self._pushed += frame.duration
        self.frames.append(frame)

    def flush(self) -> None:
        super().flush()
        if self._pushed:
            left = max(0.0, self._began + self._pushed - time.time())
            self._end = asyncio.get_running_loop().call_later(
                left, self._finish, self._pushed, False
            )

    def clear_buffer(self) -> None:
        if self._pushed:
            self.cleared_at = time.perf_counter()
            self._finish(min(time.time() - self._began, self._pushed), interrupted=True)

    def _finish(self, position: float, interrupted: bool) -> None:
        if self._end is not None:
            self._end.cancel()
        self._pushed, self._end = 0.0, None
        self.played_s = position
        self.on_playback_finished(playback_position=position, interrupted=interrupted)


class Captions(io.TextOutput):
    """Keeps what is captioned, without markup, as a room's captions are."""

    def __init__(self) -> None:
        super().__init__(label="captions", next_in_chain=None)
        self.text = ""
        self._stripper = TranscriptMarkupStripper()

    async def capture_text(self, text: str) -> None:
        self.text += self._stripper.push(text)

    def flush(self) -> None:
        self.text += self._stripper.flush()
        self._stripper = TranscriptMarkupStripper()


class RoteLLM(llm.LLM[Any]):
    """Answers everything with one text, a few letters at a time."""

    def __init__(self, reply: str, *, letters: int = 3, pause_s: float = 0.0) -> None:
        super().__init__()
        self.reply, self.letters, self.pause_s = reply, letters, pause_s
        self.instructions = ""

    def chat(self, *, chat_ctx: llm.ChatContext, **kwargs: Any) -> llm.LLMStream:
        self.instructions = "\n".join(
            item.text_content or ""
            for item in chat_ctx.items
            if item.type == "message" and item.role in ("system", "developer")
        )
        return _RoteStream(
            self,
            chat_ctx=chat_ctx,
            tools=kwargs.get("tools") or [],
            conn_options=kwargs.get("conn_options", DEFAULT_API_CONNECT_OPTIONS),
        )


class _RoteStream(llm.LLMStream):
    async def _run(self) -> None:
        model = self._llm
        assert isinstance(model, RoteLLM)
        async for piece in pieces(model.reply, letters=model.letters, pause_s=model.pause_s):
            self._event_ch.send_nowait(
                llm.ChatChunk(id="reply", delta=llm.ChoiceDelta(role="assistant", content=piece))
            )


async def pieces(text: str, *, letters: int = 3, pause_s: float = 0.0) -> AsyncIterator[str]:
    for start in range(0, len(text), letters):
        yield text[start : start + letters]
        await asyncio.sleep(pause_s)


@dataclass
class Stage:
    """A running session, and what came out of it."""

    session: AgentSession[None]
    audio: Recorder
    captions: Captions

    @property
    def last_message(self) -> llm.ChatMessage:
        """What the agent said last, from its history."""
        items = self.session.history.items
        return [i for i in items if isinstance(i, llm.ChatMessage) and i.role == "assistant"][-1]

    async def speaking(self) -> None:
        """Until the first sound."""
        async with asyncio.timeout(30):
            while self.audio.first_at is None:
                await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def on_stage(speech: tts.TTS[Any], **options: Any) -> AsyncIterator[Stage]:
    """A started session that hears nobody, speaks into a Recorder and captions in time with it, as
    in a room."""
    session: AgentSession[None] = AgentSession(
        tts=speech,
        vad=None,
        turn_handling={"turn_detection": None},
        aec_warmup_duration=None,
        **options,
    )
    recorder, captions = Recorder(), Captions()
    both = TranscriptSynchronizer(next_in_chain_audio=recorder, next_in_chain_text=captions)
    session.output.audio, session.output.transcription = both.audio_output, both.text_output
    await session.start(Agent(instructions="Be brief."))
    try:
        yield Stage(session, recorder, captions)
    finally:
        await session.aclose()
        await both.aclose()


async def read(stream: tts.SynthesizeStream | tts.ChunkedStream) -> list[tts.SynthesizedAudio]:
    async with asyncio.timeout(30), stream:
        return [event async for event in stream]


def pcm(events: list[tts.SynthesizedAudio]) -> bytes:
    return b"".join(bytes(event.frame.data) for event in events)


def words(events: list[tts.SynthesizedAudio]) -> list[TimedString]:
    """The timed strings that came with the audio, in order."""
    return [w for event in events for w in event.frame.userdata.get(USERDATA_TIMED_TRANSCRIPT, [])]


class Events:
    """What a TTS told its listeners."""

    def __init__(self, speech: tts.TTS[Any]) -> None:
        self.metrics: list[Any] = []
        self.errors: list[Any] = []
        speech.on("metrics_collected", self.metrics.append)
        speech.on("error", self.errors.append)
