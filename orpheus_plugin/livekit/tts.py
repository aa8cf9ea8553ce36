"""`OrpheusTTS`: what an AgentSession is given."""

from __future__ import annotations

import asyncio
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from livekit.agents import APIConnectOptions, get_job_context, tokenize, tts
from livekit.agents.types import DEFAULT_API_CONNECT_OPTIONS, NOT_GIVEN, NotGivenOr
from livekit.agents.utils import is_given

from orpheus_plugin.livekit.engines import EngineSource
from orpheus_plugin.livekit.markup import OrpheusMarkup
from orpheus_plugin.livekit.streams import OrpheusChunkedStream, OrpheusSynthesizeStream
from orpheus_plugin.turn import SAMPLE_RATE, SpeechOptions, Turn

if TYPE_CHECKING:
    from orpheus_plugin.turn import SpeechEngine


class OrpheusTTS(tts.TTS[Any]):
    """Orpheus speech in a LiveKit agent: `AgentSession(tts=OrpheusTTS())`.

    The model lives outside the job processes, in one server a GPU, and every job holds a thin connection to it. Which
    server: `url`, else the environment variable ORPHEUS_URL, else the one already running on this machine, else one is
    started. With `engine=` the speech is made by that engine instead, for example by
    `orpheus_plugin.shared_engine()` inside this process (console mode, the THREAD executor, scripts).

    Args:
        voice: a voice of the model, None for its first. Checked here where the engine is given, else in `connect()`, and
            whenever `update_options` is called on a connected instance.
        temperature, top_p, repetition_penalty, seed: of the sampling; None leaves it to the model.
        trim_leading_silence: drop the near-silence Orpheus starts with.
        engine: speak with this engine; whoever made it closes it.
        url: of an Orpheus server, `http://`, `https://`, `ws://` or `wss://`.
        api_key: the server's key; by default the environment variable ORPHEUS_API_KEY.
        model: which model this machine's server must speak with, by name, hub repository or directory; "auto" takes a server
            with any, and starts one with Orpheus 3B where there is CUDA, else with the small bundled voice.
        tokenizer: cuts the text into sentences in place of Orpheus' own cutting, which is made for an early first sound.
        text_pacing: hold text back while enough audio is ahead of the listener: less work wasted on interruptions, at
            the price of LiveKit's sentence tokenizer before the first sound. A SentenceStreamPacer sets its figures.
        expressive: let `AgentSession(expressive=True)` teach the language model to laugh and sigh. LiveKit then hands
            over whole sentences, one after another, instead of streaming text: speech begins later.

    Raises:
        UnknownVoice, InvalidOptions: both are ValueErrors.
        ValueError: `url` is no address, or two of `engine`, `url` and `model` are given.
    """

    Markup = OrpheusMarkup

    def __init__(
        self,
        *,
        voice: str | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        trim_leading_silence: bool = True,
        engine: SpeechEngine | None = None,
        url: str | None = None,
        api_key: str | None = None,
        model: str = "auto",
        tokenizer: tokenize.SentenceTokenizer | None = None,
        text_pacing: tts.SentenceStreamPacer | bool = False,
        expressive: bool = False,
    ) -> None:
        super().__init__(
            capabilities=tts.TTSCapabilities(streaming=not expressive, aligned_transcript=True),
            sample_rate=SAMPLE_RATE,
            num_channels=1,
        )
        self._options = SpeechOptions(
            voice=voice,
            temperature=temperature,
            top_p=top_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
            trim_leading_silence=trim_leading_silence,
        )
        self._source = EngineSource(engine, url=url, api_key=api_key, model=model)
        self._pacer = _pacer(text_pacing)
        self._tokenizer = tokenizer
        if tokenizer is None and self._pacer is not None:
            self._tokenizer = tokenize.blingfire.SentenceTokenizer(
                min_sentence_len=8, stream_context_len=4, retain_format=True
            )
        self._streams = weakref.WeakSet[tts.SynthesizeStream | tts.ChunkedStream]()
        self._abandoned: set[asyncio.Task[None]] = set()
        self._check_voice(voice)
        # Sessions do not close their TTS. One that was made in a job is the job's.
        job = get_job_context(required=False)
        if job is not None:
            job.add_shutdown_callback(self.aclose)

    # ---- what LiveKit asks for

    @property
    def model(self) -> str:
        """The model's name once connected, "orpheus" before."""
        return self._source.engine.health().model or "orpheus"

    @property
    def provider(self) -> str:
        return "orpheus"

    def stream(
        self, *, conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS
    ) -> OrpheusSynthesizeStream:
        """Speech of one agent turn, begun with its first clause while later text is still coming."""
        stream = OrpheusSynthesizeStream(tts=self, conn_options=conn_options)
        self._streams.add(stream)
        return stream

    def synthesize(
        self, text: str, *, conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS
    ) -> OrpheusChunkedStream:
        """Speech of a whole text, delivered as it is made."""
        stream = OrpheusChunkedStream(tts=self, input_text=text, conn_options=conn_options)
        self._streams.add(stream)
        return stream

    def prewarm(self) -> None:
        """Begin to connect, so that the first turn does not wait for it. LiveKit calls this when a session starts."""
        self._source.prewarm()

    async def connect(self) -> None:
        """Connect now and check the voice: a wrong voice or address shows at the start of a job, not in its first turn.

        Raises:
            UnknownVoice: the model has no such voice.
            OrpheusError: no engine could be reached or started.
        """
        await self._source.acquire()
        self._check_voice(self._options.voice)

    def update_options(
        self,
        *,
        voice: NotGivenOr[str | None] = NOT_GIVEN,
        temperature: NotGivenOr[float | None] = NOT_GIVEN,
        top_p: NotGivenOr[float | None] = NOT_GIVEN,
        repetition_penalty: NotGivenOr[float | None] = NOT_GIVEN,
        seed: NotGivenOr[int | None] = NOT_GIVEN,
        trim_leading_silence: NotGivenOr[bool] = NOT_GIVEN,
    ) -> None:
        """Change what is given, from the next turn on. None goes back to the model's default.

        Raises UnknownVoice or InvalidOptions, both ValueErrors, and then nothing has changed.
        """
        changes: dict[str, Any] = {
            name: value
            for name, value in (
                ("voice", voice),
                ("temperature", temperature),
                ("top_p", top_p),
                ("repetition_penalty", repetition_penalty),
                ("seed", seed),
                ("trim_leading_silence", trim_leading_silence),
            )
            if is_given(value)
        }
        options = replace(self._options, **changes)
        self._check_voice(options.voice)
        self._options = options

    async def __aenter__(self) -> Self:
        return self

    async def aclose(self) -> None:
        """Stop all speech and disconnect. One made in a job is closed when the job ends; an engine given stays open."""
        for stream in list(self._streams):
            await stream.aclose()
        self._streams.clear()
        await asyncio.gather(*self._abandoned, return_exceptions=True)
        await self._source.aclose()

    # ---- facts

    @property
    def speech_options(self) -> SpeechOptions:
        """What the next turn will be spoken with."""
        return self._options

    @property
    def voices(self) -> tuple[str, ...]:
        """The model's voices, the default first; empty before the connection is there."""
        return self._source.engine.voices

    @property
    def sounds(self) -> tuple[str, ...] | None:
        """The emotion tags the model knows; None while that is not known."""
        from orpheus_plugin import models

        spec = models.known_models().get(self.model)
        return spec.tags if spec is not None else None

    # ---- for the streams

    @property
    def engine_source(self) -> EngineSource:
        return self._source

    def sentence_stream(self, emitter: tts.AudioEmitter) -> tokenize.SentenceStream | None:
        """LiveKit's cutting of the text, if the application asked for it."""
        if self._tokenizer is None:
            return None
        sentences = self._tokenizer.stream()
        return self._pacer.wrap(sentences, emitter) if self._pacer is not None else sentences

    def abandon(self, turn: Turn) -> None:
        """Have the engine drop a turn, without waiting for it."""
        cancelling = asyncio.create_task(turn.cancel(), name="orpheus-cancel")
        self._abandoned.add(cancelling)
        cancelling.add_done_callback(self._abandoned.discard)

    def _check_voice(self, voice: str | None) -> None:
        if voice is not None:
            self._source.engine.check_voice(voice)


def _pacer(text_pacing: tts.SentenceStreamPacer | bool) -> tts.SentenceStreamPacer | None:
    if text_pacing is True:
        return tts.SentenceStreamPacer()
    return text_pacing or None
