"""OrpheusTTS, the Pipecat service: frames in, frames out.

What an audio context says is its `Speech`: each sentence of a reply goes into it as it comes, the engine generates
ahead of the listener, and one task per context moves audio and timed words into the pipeline.

Of what Pipecat keeps to itself this uses one thing, `_word_timestamp_tracker.last_pts`, in `start_word_timestamps`;
pyproject.toml holds Pipecat to the minor version it was tested with for that.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, replace
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
from pipecat.metrics.metrics import MetricsData
from pipecat.processors.frame_processor import FrameDirection, FrameProcessorSetup
from pipecat.services.settings import TTSSettings
from pipecat.services.tts_service import TextAggregationMode, TTSService
from pipecat.utils.errors import ErrorCategory
from pipecat.utils.text.transforms.text_transform import TextTransform
from pipecat.utils.tracing.service_decorators import traced_tts
from pipecat.utils.types import NOT_GIVEN, is_given

from orpheus_plugin.errors import EngineDied, OrpheusError
from orpheus_plugin.pipecat.engines import choose_engine
from orpheus_plugin.pipecat.reply import Playing, Speech, Turns
from orpheus_plugin.pipecat.sayable import is_sayable, may_be_sayable, text_options
from orpheus_plugin.pipecat.settings import (
    OPTIONS,
    OrpheusTTSSettings,
    category_of,
    speech_options,
)
from orpheus_plugin.turn import (
    SAMPLE_RATE,
    AudioChunk,
    SpeechEngine,
    SpeechOptions,
    Turn,
    Word,
)

READY_TIMEOUT_S = 18.0
"""How long a pipeline waits for the engine. Pipecat abandons a pipeline that is not set up after 20 s."""

RETRY_S = 1.0
"""Between attempts to reach a server that was away when the pipeline started."""

STALL_TIMEOUT_S = 30.0
"""A reply that neither gets audio nor ends for this long is given up. Pipecat's 3 s would cut a busy engine's off."""

_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
"""Scripts whose words are not separated by spaces."""


@dataclass(slots=True)
class _Context:
    """An audio context of this service, while it speaks."""

    speech: Speech
    task: asyncio.Task[None]


class OrpheusTTS(TTSService):
    """Speaks with Orpheus: on this machine's GPU, on a speech server, or with the small bundled model.

    All services of a process with the same model and device share one engine, which batches their turns.

    Besides the events of every TTS service: `on_turn_stats(service, context_id, stats)` after each turn of speech,
    with a `TurnStats` (time to first audio, real-time factor, underruns, tokens, ...).

    Example::

        engine = await OrpheusTTS.warm()  # once per process, before the first caller
        tts = OrpheusTTS(settings=OrpheusTTS.Settings(voice="tara"))
        pipeline = Pipeline([transport.input(), stt, user, llm, tts, transport.output(), assistant])
    """

    Settings = OrpheusTTSSettings
    _settings: OrpheusTTSSettings

    def __init__(
        self,
        *,
        engine: SpeechEngine | None = None,
        url: str | None = None,
        api_key: str | None = None,
        model: str | None = None,
        device: str = "auto",
        settings: OrpheusTTSSettings | None = None,
        sample_rate: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Choose the engine and check the settings. Nothing is loaded yet: `warm` or the pipeline's start do that.

        Args:
            engine: speak with this engine; it is left running when the pipeline ends.
            url: speak through a server started with `orpheus-tts serve`. "local" is this machine's, which is started
                if none runs and ends when nobody has used it for a while: the model then shares no interpreter with
                the agent, which on a CPU is twice as fast. Also taken from ORPHEUS_URL, if neither engine nor model
                is given.
            api_key: the server's key. Also taken from ORPHEUS_API_KEY.
            model: a known model, a hub repository or a directory; by default Orpheus 3B where there is an NVIDIA GPU,
                else the bundled small voice.
            device: "auto", "cpu", "cuda" or "cuda:N".
            settings: voice, sampling and the like, all of which can be changed later.
            sample_rate: ignored but for a warning: frames are Orpheus' own 24 kHz and say so, and the transport
                resamples them without losing the last samples.
            **kwargs: passed on to Pipecat's `TTSService`.

        Raises:
            UnknownVoice, InvalidOptions: a setting is out of its range.
            ModelNotFound: the model is not on this machine.
        """
        if sample_rate not in (None, SAMPLE_RATE):
            logger.warning(
                f"OrpheusTTS: sample_rate={sample_rate} is not used; frames are {SAMPLE_RATE} Hz and the transport"
                " resamples. Set audio_out_sample_rate in PipelineParams instead."
            )
        asked = settings or OrpheusTTSSettings()
        if model is None and is_given(asked.model):
            model = asked.model
        self._engine = choose_engine(engine, url, api_key, model, device)
        values = OrpheusTTSSettings(
            model=model,
            voice=None,
            language=None,
            temperature=None,
            top_p=None,
            repetition_penalty=None,
            seed=None,
        )
        values.apply_update(asked)
        options = speech_options(values)
        values.voice = self._engine.check_voice(options.voice)
        values.model = self._engine.health().model or model

        kwargs.setdefault("stop_frame_timeout_s", STALL_TIMEOUT_S)
        # Failures are reported as what they are; silence alone never writes this service off.
        kwargs.setdefault("max_consecutive_zero_audio_contexts", 0)
        super().__init__(
            push_text_frames=False,
            push_start_frame=True,
            push_stop_frames=True,
            sample_rate=SAMPLE_RATE,
            settings=values,
            **kwargs,
        )
        self._takes_tokens = kwargs.get("text_aggregation_mode") is TextAggregationMode.TOKEN
        self._text_options = text_options(self._engine)
        self.add_text_transformer(self._only_sayable)
        self._contexts: dict[str, _Context] = {}
        self._turns = Turns()
        self._background: set[asyncio.Task[None]] = set()
        self._recovery: asyncio.Task[None] | None = None
        self._playing = Playing()
        self._open_contexts: list[str] = []  # of the reply being written, and of a notice within it
        self._failures: dict[int, str] = {}  # error frames, and the contexts they are of
        self._unspoken: set[str] = set()  # contexts whose remaining text was never said
        self._register_event_handler("on_turn_stats")

    @classmethod
    async def warm(
        cls,
        *,
        url: str | None = None,
        api_key: str | None = None,
        model: str | None = None,
        device: str = "auto",
    ) -> SpeechEngine:
        """Load and warm the engine that `OrpheusTTS(...)` with the same arguments will use; returns it.

        Call it once, before the first pipeline: loading a large model takes longer than Pipecat waits for a pipeline
        to start. The event loop stays free meanwhile.
        """
        engine = await asyncio.to_thread(choose_engine, None, url, api_key, model, device)
        await engine.start()
        return engine

    @property
    def engine(self) -> SpeechEngine:
        """What speaks: health, voices, or turns outside the pipeline."""
        return self._engine

    def can_generate_metrics(self) -> bool:
        return True

    @property
    def supports_processing_metrics(self) -> bool:
        return False  # run_tts only hands the text over

    def _classify_error(self, exception: Exception) -> ErrorCategory | None:
        return category_of(exception)

    # ---- life

    async def setup(self, setup: FrameProcessorSetup) -> None:  # type: ignore[override] # as Pipecat does
        """Wait until the engine can speak. A failure makes this service unusable and says why."""
        await super().setup(setup)
        try:
            await asyncio.wait_for(self._engine.start(), READY_TIMEOUT_S)
        except TimeoutError:
            self._recovery = self._in_background(self._become_usable())
            raise EngineDied(
                f"the speech engine was not ready after {READY_TIMEOUT_S:.0f} s and is still loading; call"
                " `await OrpheusTTS.warm()` once before the first pipeline is started"
            ) from None
        except OrpheusError as error:
            if error.retryable:
                self._recovery = self._in_background(self._become_usable())
            raise
        await self._know_the_engine()

    async def _become_usable(self) -> None:
        """The pipeline runs without a voice; give it one as soon as the engine is there."""
        while True:
            try:
                await self._engine.start()
                await self._know_the_engine()
            except OrpheusError as error:
                if error.retryable:
                    await asyncio.sleep(RETRY_S)
                    continue
                await self._did_not_start(error)
            except Exception as error:
                await self._did_not_start(error)
            else:
                await self.set_usable(True)
            return

    async def _did_not_start(self, error: Exception) -> None:
        await self.push_error(f"the speech engine did not start: {error}", exception=error)

    async def _know_the_engine(self) -> None:
        """A server's model and voices are known once it has been reached."""
        self._settings.voice = self._engine.check_voice(speech_options(self._settings).voice)
        self._settings.model = self._engine.health().model
        self.set_core_metrics_data(
            MetricsData(processor=self.name, model=self._settings.model or "")
        )

    async def stop(self, frame: EndFrame) -> None:
        for context in self._contexts.values():
            context.speech.finish()
        await super().stop(frame)  # plays out what is there
        await self._drop_all()

    async def cancel(self, frame: CancelFrame) -> None:
        await self._drop_all()
        await super().cancel(frame)

    async def cleanup(self) -> None:
        if self._recovery is not None:
            await self.cancel_task(self._recovery)
        await self._drop_all()
        if self._background:
            _, late = await asyncio.wait(self._background, timeout=2.0)
            for task in late:
                await self.cancel_task(task)
        await super().cleanup()

    # ---- text in

    def add_text_transformer(
        self,
        transform_function: TextTransform,
        text_type: str = "*",
        **kwargs: Any,
    ) -> None:
        """Transform text of a type before it is spoken. The check for something to say stays the last one."""
        self.remove_text_transformer(self._only_sayable)
        super().add_text_transformer(transform_function, text_type, **kwargs)
        if transform_function != self._only_sayable:
            super().add_text_transformer(self._only_sayable)

    async def _only_sayable(self, text: str, text_type: str) -> str:
        """Nothing instead of text in which there is nothing to say, so that no audio context is opened for it."""
        if not self._takes_tokens:
            return text if is_sayable(text, self._text_options) else ""
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
        """Hand a sentence (or, in token mode, a piece of one) over to the context's turn."""
        try:
            taken = self._say(text, context_id)
        except Exception as error:
            # Nothing may leave here: it would take the end of the reply with it.
            yield self._failure(error, context_id)
        else:
            if taken:
                await self.start_tts_usage_metrics(text)
            yield None

    def _say(self, text: str, context_id: str) -> bool:
        """Whether it will be said."""
        context = self._contexts.get(context_id)
        if context is None:
            speech = Speech(self._turns, self._open_turn)
            task = self.create_task(self._voice(speech, context_id), f"orpheus::{context_id}")
            context = self._contexts[context_id] = _Context(speech, task)
        if not self._takes_tokens and not text[-1:].isspace():
            text += " "  # sentences come without the space between them
        return context.speech.say(text, complete=not self._takes_tokens)

    def _open_turn(self) -> Turn:
        return self._engine.open_turn(speech_options(self._settings))

    async def flush_audio(self, context_id: str | None = None) -> None:
        """The reply is complete: speak the rest of it and close its context."""
        context_id = context_id or self.get_active_audio_context_id()
        if context_id is None:
            return
        context = self._contexts.get(context_id)
        if context is not None:
            context.speech.finish()
        elif self.audio_context_available(context_id):
            # Opened while this service could not be used.
            self._unspoken.add(context_id)
            await self._close_context(context_id)

    # ---- audio out

    async def _voice(self, speech: Speech, context_id: str) -> None:
        """Move what a context says into its queue, in order, and close it."""
        try:
            async with aclosing(speech.events()) as events:
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
            # A fault of this class: the reply ends, rather than keep its listener waiting and the engine busy.
            self._cancel_turns(speech)
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
        await self.append_to_audio_context(context_id, self._failure(error, context_id))

    async def _close_context(self, context_id: str) -> None:
        await self.append_to_audio_context(context_id, TTSStoppedFrame(context_id=context_id))
        await self.remove_audio_context(context_id)

    async def start_word_timestamps(self) -> None:
        """A context's first audio is about to be pushed: its words count from when it will be heard.

        Audio is pushed faster than it plays, so that is behind all audio of the contexts before it.
        """
        wait = self._playing.ahead_s()
        tracker = self._word_timestamp_tracker
        tracker.last_pts = max(tracker.last_pts, self.get_clock().get_time() + int(wait * 1e9))
        context = self._contexts.get(self.get_active_audio_context_id() or "")
        if context is not None:
            context.speech.begins(wait)
        await super().start_word_timestamps()

    async def push_frame(
        self, frame: Frame, direction: FrameDirection = FrameDirection.DOWNSTREAM
    ) -> None:
        if isinstance(frame, TTSAudioRawFrame):
            self._unspoken.discard(frame.context_id or "")
        elif isinstance(frame, TTSTextFrame) and frame.context_id in self._unspoken:
            frame.append_to_context = False  # the agent must not believe it said this
        await super().push_frame(frame, direction)
        if isinstance(frame, TTSAudioRawFrame):
            seconds = len(frame.audio) / (2 * frame.sample_rate)
            self._playing.add(seconds, kept=not frame.interruptible)

    async def push_error_frame(
        self, error: ErrorFrame, force_treat_as_permanent: bool = False
    ) -> None:
        if context_id := self._failures.pop(error.id, None):
            self._unspoken.add(context_id)
        await super().push_error_frame(error, force_treat_as_permanent)

    def _failure(self, error: Exception, context_id: str) -> ErrorFrame:
        """For a context's queue: what comes after it was not said."""
        frame = ErrorFrame(error=f"could not speak: {error}", exception=error)
        self._failures[frame.id] = context_id
        return frame

    # ---- interruption

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, InterruptionFrame):
            self._playing.interrupt()  # as the transport does
            self._open_contexts = list(filter(self.audio_context_available, self._open_contexts))

    async def on_audio_context_interrupted(self, context_id: str) -> None:
        await self.stop_all_metrics()
        await self._drop(context_id)
        self._forget(context_id)
        await super().on_audio_context_interrupted(context_id)

    async def on_audio_context_completed(self, context_id: str) -> None:
        await self._drop(context_id)  # there only if the context was given up before its turn ended
        self._forget(context_id)
        await super().on_audio_context_completed(context_id)

    def _forget(self, context_id: str) -> None:
        self._unspoken.discard(context_id)
        self._failures = {frame: of for frame, of in self._failures.items() if of != context_id}

    async def _drop(self, context_id: str) -> None:
        """Take a context out of the engine: at once, without waiting for the engine's confirmation."""
        context = self._contexts.pop(context_id, None)
        if context is not None:
            self._cancel_turns(context.speech)
            await self.cancel_task(context.task)

    async def _drop_all(self) -> None:
        for context_id in list(self._contexts):
            await self._drop(context_id)

    def _cancel_turns(self, speech: Speech) -> None:
        for turn in speech.abandon():
            self._in_background(self._cancel_turn(turn))

    async def _cancel_turn(self, turn: Turn) -> None:
        await turn.cancel()
        self._turns.over(turn)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self.create_task(work, "orpheus::background")
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    # ---- settings

    async def _update_settings(self, delta: TTSSettings) -> dict[str, Any]:  # type: ignore[override] # as Pipecat does
        """Apply what is valid. What is not keeps its old value and is reported, without harm to the service."""
        delta = replace(delta)
        if is_given(delta.model) and delta.model != self._settings.model:
            self._warn_unhandled_updated_settings(["model"])
        delta.model = NOT_GIVEN
        refused: list[OrpheusError] = []
        for name in OPTIONS:
            value = getattr(delta, name, NOT_GIVEN)
            if not is_given(value):
                continue
            try:
                options = SpeechOptions(**{name: value})
                if name == "voice":
                    delta.voice = self._engine.check_voice(options.voice)
            except OrpheusError as error:
                refused.append(error)
                setattr(delta, name, NOT_GIVEN)
        changed = await super()._update_settings(delta)
        if changed.keys() & set(OPTIONS):
            for context in self._contexts.values():
                context.speech.end_turn()
        for refusal in refused:
            await self.push_error(f"setting not changed: {refusal}", exception=refusal)
        return changed
