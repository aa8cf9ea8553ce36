"""OrpheusTTS, the Pipecat service: frames in, frames out.

Each audio context has a `ContextReply`: sentences go into it as they come, the engine generates
ahead of the listener, and one task per context moves audio and timed words into the pipeline.

It uses two private names of Pipecat: `_word_timestamp_tracker.last_pts` in `start_word_timestamps`,
and `_record_context_audio_outcome`. So pyproject.toml limits Pipecat to the minor version that was
tested.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from loguru import logger
from pipecat.frames.frames import (
    CancelFrame,
    EndFrame,
    ErrorFrame,
    Frame,
    InterruptionFrame,
    TTSAudioRawFrame,
    TTSStoppedFrame,
    TTSTextFrame,
)
from pipecat.processors.frame_processor import FrameDirection
from pipecat.services.tts_service import TextAggregationMode
from pipecat.utils.text.transforms.text_transform import TextTransform
from pipecat.utils.tracing.service_decorators import traced_tts
from pipecat.utils.types import is_given

from orpheus_plugin.events import SAMPLE_RATE, AudioChunk, Word
from orpheus_plugin.pipecat.errors import Failures
from orpheus_plugin.pipecat.reply import ContextReply, Playback
from orpheus_plugin.pipecat.service import RETRY_S, EngineService
from orpheus_plugin.pipecat.settings import OrpheusTTSSettings, complete_settings, speech_options
from orpheus_plugin.remote.resolve import resolve
from orpheus_plugin.reply import PLACE_WAIT_S, OpenTurns
from orpheus_plugin.speech_engine import SpeechEngine
from orpheus_plugin.text.speech_content import is_sayable, may_be_sayable
from orpheus_plugin.turn import Turn

_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
"""Scripts whose words are not separated by spaces."""


@dataclass(slots=True)
class _Context:
    """An audio context of this service that is speaking."""

    reply: ContextReply
    task: asyncio.Task[None]


class OrpheusTTS(EngineService):
    """Speaks with Orpheus on this machine's GPU, with a speech server, or with the small bundled
    model.

    All services of a process with the same model and device share one engine, which batches their
    turns.

    Besides the events of every TTS service: `on_turn_stats(service, context_id, stats)` after each
    turn of speech, with a `TurnStats` (time to first audio, RTFx, underruns, tokens, ...).

    Example::

        engine = await OrpheusTTS.warm()  # once per process, before the first caller
        tts = OrpheusTTS(settings=OrpheusTTS.Settings(voice="tara"))
        pipeline = Pipeline([transport.input(), stt, user, llm, tts, transport.output(), assistant])
    """

    def __init__(
        self,
        *,
        engine: SpeechEngine | None = None,
        url: str | None = None,
        api_key: str | None = None,
        model: str | None = None,
        device: str = "auto",
        settings: OrpheusTTSSettings | None = None,
        resume_within_s: float | None = None,
        unusable_after_s: float = 5.0,
        sample_rate: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Choose the engine and check the settings. Nothing is loaded yet: `warm` or the start of
        the pipeline loads the model.

        Args:
            engine: speak with this engine; it stays running when the pipeline ends.
            url: speak through the server at this address (`orpheus-tts serve`). "local" is this
                machine's server, which is started if none runs and ends when it has not been used
                for a while. The model then has an interpreter of its own, which on a CPU is twice
                as fast. By default ORPHEUS_URL, else "in-process".
            api_key: the server's key; by default ORPHEUS_API_KEY.
            model: a known model, a hub repository or a directory; by default Orpheus 3B with an
                NVIDIA GPU, else the small bundled voice.
            device: "auto", "cpu", "cuda" or "cuda:N".
            settings: voice, sampling and other settings; all can be changed later.
            resume_within_s: a reply that loses its server in mid-speech goes on with its next word
                at the server that is reached within so many seconds. With 0 it ends there. By
                default 5, and 20 for this machine's server, which is started again.
            unusable_after_s: when all replies have failed for so many seconds because the engine is
                gone, the next failure makes this service unusable, so that a `ServiceSwitcher` uses
                its backup. It becomes usable again when the engine is back.
            sample_rate: ignored with a warning: frames have Orpheus' 24 kHz, and the transport
                resamples them without losing the last samples.
            **kwargs: passed on to Pipecat's `TTSService`.

        Raises:
            UnknownVoice, InvalidOptions: a setting is out of its range.
            ModelNotFound: the model is not on this machine.
        """
        if sample_rate not in (None, SAMPLE_RATE):
            logger.warning(
                f"OrpheusTTS: sample_rate={sample_rate} is not used; frames are {SAMPLE_RATE} Hz"
                " and the transport resamples. Set audio_out_sample_rate in PipelineParams"
                " instead."
            )
        asked = settings or OrpheusTTSSettings()
        if model is None and is_given(asked.model):
            model = asked.model
        engine = resolve(
            engine,
            url=url,
            api_key=api_key,
            model=model,
            device=device,
            resume_within_s=resume_within_s,
        )
        super().__init__(engine=engine, settings=complete_settings(asked, model), **kwargs)
        self._takes_tokens = kwargs.get("text_aggregation_mode") is TextAggregationMode.TOKEN
        self.add_text_transformer(self._only_sayable)
        self._contexts: dict[str, _Context] = {}
        self._turns = OpenTurns()
        self._playback = Playback()
        self._open_contexts: list[str] = []  # of the current reply, and of a notice within it
        self._failures = Failures(unusable_after_s)
        self._register_event_handler("on_turn_stats")

    # ---- life

    async def stop(self, frame: EndFrame) -> None:
        for context in self._contexts.values():
            context.reply.end()
        await super().stop(frame)  # plays the audio that is queued
        await self._drop_all()

    async def cancel(self, frame: CancelFrame) -> None:
        await self._drop_all()
        await super().cancel(frame)

    async def cleanup(self) -> None:
        await self._drop_all()
        await super().cleanup()

    # ---- text in

    def add_text_transformer(
        self,
        transform_function: TextTransform,
        text_type: str = "*",
        **kwargs: Any,
    ) -> None:
        """Transform text of a type before it is spoken. The check for speakable text stays the last
        transformer."""
        self.remove_text_transformer(self._only_sayable)
        super().add_text_transformer(transform_function, text_type, **kwargs)
        if transform_function != self._only_sayable:
            super().add_text_transformer(self._only_sayable)

    async def _only_sayable(self, text: str, text_type: str) -> str:
        """ "" for text with nothing to speak, so that no audio context is opened for it."""
        if not self._takes_tokens:
            return text if is_sayable(text, self._engine.tags) else ""
        if self._open_contexts and self.audio_context_available(self._open_contexts[-1]):
            return text
        return text if may_be_sayable(text) else ""

    async def on_turn_context_created(self, context_id: str) -> None:
        if context_id not in self._open_contexts:
            self._open_contexts.append(context_id)
        await super().on_turn_context_created(context_id)

    async def on_turn_context_completed(self) -> None:
        await super().on_turn_context_completed()
        self._open_contexts = self._open_contexts[:-1]

    @traced_tts
    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        """Pass a sentence (or, in token mode, a piece of one) to the context's turn."""
        if self._say(text, context_id):
            await self.start_tts_usage_metrics(text)
        # Pipecat brings the sentences of an answer that came at once without a pause between them,
        # 1 to 2 ms each: meanwhile the loop sends audio.
        await asyncio.sleep(0)
        yield None

    def _say(self, text: str, context_id: str) -> bool:
        """Whether it will be spoken."""
        context = self._contexts.get(context_id)
        if context is None:
            reply = ContextReply(self._open_turn, self._turns)
            task = self.create_task(self._speak(reply, context_id), f"orpheus::{context_id}")
            context = self._contexts[context_id] = _Context(reply, task)
        if not self._takes_tokens and not text[-1:].isspace():
            text += " "  # Pipecat leaves out the space between sentences
        return context.reply.say(text, complete=not self._takes_tokens)

    def _open_turn(self) -> Turn:
        return self._engine.open_turn(speech_options(self._settings), max_wait_s=PLACE_WAIT_S)

    async def flush_audio(self, context_id: str | None = None) -> None:
        """The reply is complete: speak the rest of it and close its context."""
        context_id = context_id or self.get_active_audio_context_id()
        if context_id is None:
            return
        context = self._contexts.get(context_id)
        if context is not None:
            context.reply.end()
        elif self.audio_context_available(context_id):
            # Opened while this service could not be used.
            self._failures.leave_unspoken(context_id)
            await self._close_context(context_id)

    # ---- audio out

    async def _speak(self, reply: ContextReply, context_id: str) -> None:
        """Move a context's speech into its queue, in order, and close it."""
        try:
            async with aclosing(reply.events()) as events:
                async for event in events:
                    if isinstance(event, AudioChunk):
                        audio = TTSAudioRawFrame(event.pcm, SAMPLE_RATE, 1, context_id=context_id)
                        await self.append_to_audio_context(context_id, audio)
                    elif isinstance(event, Word):
                        await self._add_word(event, context_id)
                    elif isinstance(event, Exception):
                        await self._fail(event, context_id)
                    else:
                        await self._call_event_handler("on_turn_stats", context_id, event.stats)
        except Exception as error:
            # An error in this class: the reply ends, so that its listener does not wait and the
            # engine is free.
            self._cancel_turns(reply)
            await self._fail(error, context_id)
        self._contexts.pop(context_id, None)
        await self._close_context(context_id)

    async def _add_word(self, word: Word, context_id: str) -> None:
        await self.add_word_timestamps(
            [(word.text, word.start_s)],
            context_id,
            includes_inter_frame_spaces=True if _UNSPACED.search(word.text) else None,
        )

    async def _fail(self, error: Exception, context_id: str) -> None:
        await self.append_to_audio_context(context_id, self._failures.frame(error, context_id))

    async def _close_context(self, context_id: str) -> None:
        await self.append_to_audio_context(context_id, TTSStoppedFrame(context_id=context_id))
        await self.remove_audio_context(context_id)

    async def start_word_timestamps(self) -> None:
        """A context's first audio is about to be pushed: times of its words count from when it will
        be heard.

        Audio is pushed faster than it plays, so that is after all audio of the contexts before it.
        """
        wait = self._playback.ahead_s()
        tracker = self._word_timestamp_tracker
        tracker.last_pts = max(tracker.last_pts, self.get_clock().get_time() + int(wait * 1e9))
        context = self._contexts.get(self.get_active_audio_context_id() or "")
        if context is not None:
            context.reply.begins(wait)
        await super().start_word_timestamps()

    async def push_frame(
        self, frame: Frame, direction: FrameDirection = FrameDirection.DOWNSTREAM
    ) -> None:
        if isinstance(frame, TTSAudioRawFrame):
            self._failures.audio(frame.context_id or "")
        elif isinstance(frame, TTSTextFrame) and self._failures.unspoken(frame.context_id):
            frame.append_to_context = False  # the agent's memory must not contain it
        await super().push_frame(frame, direction)
        if isinstance(frame, TTSAudioRawFrame):
            seconds = len(frame.audio) / (2 * frame.sample_rate)
            self._playback.add(seconds, kept=not frame.interruptible)

    async def push_error_frame(
        self, error: ErrorFrame, force_treat_as_permanent: bool = False
    ) -> None:
        gone = self._failures.leaves(error)
        await super().push_error_frame(error, gone or force_treat_as_permanent)
        if gone:
            self.recover(after_s=RETRY_S)

    async def _record_context_audio_outcome(self, context_id: str, received_audio: bool) -> None:
        """Pipecat reports a context without audio. A context that failed was reported already, with
        the reason."""
        if not self._failures.unspoken(context_id):
            await super()._record_context_audio_outcome(context_id, received_audio)

    def options_changed(self) -> None:
        """From the next sentence on."""
        for context in self._contexts.values():
            context.reply.next_turn()

    # ---- interruption

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, InterruptionFrame):
            self._playback.interrupt()  # as the transport does
            self._open_contexts = list(filter(self.audio_context_available, self._open_contexts))

    async def on_audio_context_interrupted(self, context_id: str) -> None:
        await self.stop_all_metrics()
        await self._drop(context_id)
        self._failures.forget(context_id)
        await super().on_audio_context_interrupted(context_id)

    async def on_audio_context_completed(self, context_id: str) -> None:
        await self._drop(context_id)  # open only if the context ended before its turn
        self._failures.forget(context_id)
        await super().on_audio_context_completed(context_id)

    async def _drop(self, context_id: str) -> None:
        """Cancel a context's turns at once, without waiting for the engine's confirmation."""
        context = self._contexts.pop(context_id, None)
        if context is not None:
            self._cancel_turns(context.reply)
            await self.cancel_task(context.task)

    async def _drop_all(self) -> None:
        for context_id in list(self._contexts):
            await self._drop(context_id)

    def _cancel_turns(self, reply: ContextReply) -> None:
        for turn in reply.abandon():
            self.in_background(self._cancel_turn(turn))

    async def _cancel_turn(self, turn: Turn) -> None:
        await turn.cancel()
        self._turns.over(turn)
