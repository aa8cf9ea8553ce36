"""`OrpheusTTS`: the TTS of an AgentSession."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

from livekit.agents import APIConnectOptions, get_job_context, tokenize, tts
from livekit.agents.types import DEFAULT_API_CONNECT_OPTIONS, NOT_GIVEN, NotGivenOr
from livekit.agents.utils import is_given

from orpheus_plugin.events import SAMPLE_RATE
from orpheus_plugin.livekit.log import logger
from orpheus_plugin.livekit.markup import OrpheusMarkup
from orpheus_plugin.livekit.streams import OrpheusChunkedStream, OrpheusSynthesizeStream, Speaker
from orpheus_plugin.options import SpeechOptions
from orpheus_plugin.remote.engine import RemoteEngine
from orpheus_plugin.remote.resolve import LOCAL, release, resolve
from orpheus_plugin.speech_engine import SpeechEngine
from orpheus_plugin.turn import Turn


class OrpheusTTS(tts.TTS[Any]):
    """Orpheus speech in a LiveKit agent: `AgentSession(tts=OrpheusTTS())`.

    The model runs outside the job processes, in one server per GPU, and every job has a thin
    connection to it. The server is `url`, else the environment variable ORPHEUS_URL, else the one
    that runs on this machine, else one is started. In console mode, with the THREAD executor and in
    scripts, `url="in-process"` speaks without a server.

    Args:
        voice: a voice of the model, None for its first. Checked here if `engine` is given, else in
            `connect()`, and in `update_options` when connected.
        temperature: of sampling; None is the model's default, as for the next three.
        top_p: the share of probability to sample from.
        repetition_penalty: above 1, codes that came before are less likely.
        seed: the same seed speaks the same way again.
        trim_leading_silence: drop the near-silence that Orpheus starts with.
        spell_numbers: write out numbers, money, dates and the like before the model reads them;
            None is the engine's setting.
        pronunciations: written word -> how it is spoken: {"Nguyen": "win"}. Transcripts keep the
            written form.
        speed: 0.5 to 2; 2 is twice as fast, at the same pitch.
        gain_db: added to the loudness, -40 to 20.
        engine: speak with this engine; its owner closes it.
        url: of an Orpheus server, `http://`, `https://`, `ws://` or `wss://`; "local" is this
            machine's server, which is started if none runs; "in-process" is an engine in this
            process. By default ORPHEUS_URL, else "local".
        api_key: the server's key; by default the environment variable ORPHEUS_API_KEY.
        model: name, hub repository or directory of the model of this machine's server, or of the
            engine in this process. None accepts a server with any model, and starts one with
            Orpheus 3B if there is CUDA, else with the small bundled voice.
        device: "auto", "cpu", "cuda" or "cuda:N", like `model`.
        resume_within_s: a reply that loses its server in mid-speech goes on with its next word at
            the server that is reached within so many seconds. With 0 it ends there. By default 5,
            and 20 for this machine's server, which is started again.
        tokenizer: cuts the text into sentences in place of Orpheus' own cutting, which is made for
            an early first sound.
        text_pacing: hold text back while the listener has enough audio: less work is wasted on
            interruptions, but the first sound waits for LiveKit's sentence tokenizer. A
            SentenceStreamPacer sets its figures.
        expressive: let `AgentSession(expressive=True)` teach the language model to laugh and sigh.
            LiveKit then passes whole sentences instead of streaming text: speech begins later.

    Raises:
        UnknownVoice, InvalidOptions: both are ValueErrors.
        ModelNotFound: "in-process" is used and the model is not on this machine.
        ValueError: `url` is not an address, or it is given with `engine`, `model` or `device`.
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
        spell_numbers: bool | None = None,
        pronunciations: Mapping[str, str] | None = None,
        speed: float | None = None,
        gain_db: float | None = None,
        engine: SpeechEngine | None = None,
        url: str | None = None,
        api_key: str | None = None,
        model: str | None = None,
        device: str = "auto",
        resume_within_s: float | None = None,
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
            spell_numbers=spell_numbers,
            pronunciations=pronunciations,
            speed=speed,
            gain_db=gain_db,
        )
        self._engine = resolve(
            engine,
            url=url,
            api_key=api_key,
            model=model,
            device=device,
            resume_within_s=resume_within_s,
            default=LOCAL,
        )
        self._closed = False
        self._warming: asyncio.Task[None] | None = None
        self._pacer = _pacer(text_pacing)
        self._tokenizer = tokenizer
        if tokenizer is None and self._pacer is not None:
            self._tokenizer = tokenize.blingfire.SentenceTokenizer(
                min_sentence_len=8, stream_context_len=4, retain_format=True
            )
        self._streams = weakref.WeakSet[tts.SynthesizeStream | tts.ChunkedStream]()
        self._abandoned: set[asyncio.Task[None]] = set()
        self._check_voice(voice)
        # Sessions do not close their TTS. The job closes one that was made in it.
        job = get_job_context(required=False)
        if job is not None:
            job.add_shutdown_callback(self.aclose)

    # ---- what LiveKit asks for

    @property
    def model(self) -> str:
        """The model's name once connected, "orpheus" before."""
        return self._engine.health().model or "orpheus"

    @property
    def provider(self) -> str:
        return "orpheus"

    def stream(
        self, *, conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS
    ) -> OrpheusSynthesizeStream:
        """Speech of one agent turn. It begins with the first clause while later text is still
        coming."""
        stream = OrpheusSynthesizeStream(
            tts=self, conn_options=conn_options, speaker=self._speaker()
        )
        self._streams.add(stream)
        return stream

    def synthesize(
        self, text: str, *, conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS
    ) -> OrpheusChunkedStream:
        """Speech of a whole text, delivered as it is made."""
        stream = OrpheusChunkedStream(
            tts=self, input_text=text, conn_options=conn_options, speaker=self._speaker()
        )
        self._streams.add(stream)
        return stream

    def prewarm(self) -> None:
        """Begin to connect, so that the first turn does not wait for it. LiveKit calls this when a
        session starts."""
        if isinstance(self._engine, RemoteEngine):
            self._engine.prewarm()
        elif self._warming is None or self._warming.done():
            self._warming = asyncio.create_task(self._warm(), name="orpheus-prewarm")

    async def _warm(self) -> None:
        try:
            await self._engine.start()
        except Exception as error:
            # Its text may contain an address with a key. The first turn tries again and reports it.
            logger.warning("the speech engine is not ready yet: %s", type(error).__name__)

    async def connect(self) -> None:
        """Connect now and check the voice, so that a wrong voice or address fails at the start of a
        job, not in its first turn.

        Raises:
            UnknownVoice: the model has no such voice.
            OrpheusError: no engine could be reached or started.
        """
        await self._engine.start()
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
        spell_numbers: NotGivenOr[bool | None] = NOT_GIVEN,
        pronunciations: NotGivenOr[Mapping[str, str] | None] = NOT_GIVEN,
        speed: NotGivenOr[float | None] = NOT_GIVEN,
        gain_db: NotGivenOr[float | None] = NOT_GIVEN,
    ) -> None:
        """Change the given options, from the next turn on. None is the model's default.

        Raises UnknownVoice or InvalidOptions, both ValueErrors; nothing has changed then.
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
                ("spell_numbers", spell_numbers),
                ("pronunciations", pronunciations),
                ("speed", speed),
                ("gain_db", gain_db),
            )
            if is_given(value)
        }
        options = replace(self._options, **changes)
        self._check_voice(options.voice)
        self._options = options

    async def __aenter__(self) -> Self:
        return self

    async def aclose(self) -> None:
        """Stop all speech and disconnect. A TTS made in a job is closed when the job ends; a given
        engine stays open."""
        for stream in list(self._streams):
            await stream.aclose()
        self._streams.clear()
        if self._warming is not None:
            self._warming.cancel()
            await asyncio.gather(self._warming, return_exceptions=True)
        await asyncio.gather(*self._abandoned, return_exceptions=True)
        if not self._closed:
            self._closed = True
            await release(self._engine)

    # ---- facts

    @property
    def speech_options(self) -> SpeechOptions:
        """Options of the next turn."""
        return self._options

    @property
    def voices(self) -> tuple[str, ...]:
        """The model's voices, the default first; empty before it is connected."""
        return self._engine.voices

    @property
    def sounds(self) -> tuple[str, ...] | None:
        """The emotion tags the model knows; None while that is not known."""
        return self._engine.tags if self._engine.health().model else None

    @property
    def engine(self) -> SpeechEngine:
        """The engine: for health, voices, load."""
        return self._engine

    # ---- for the streams

    def _speaker(self) -> Speaker:
        return Speaker(self._engine, self._options, self._sentences, self._abandon)

    def _sentences(self, emitter: tts.AudioEmitter) -> tokenize.SentenceStream | None:
        """LiveKit's cutting of the text, if the application asked for it."""
        if self._tokenizer is None:
            return None
        sentences = self._tokenizer.stream()
        return self._pacer.wrap(sentences, emitter) if self._pacer is not None else sentences

    def _abandon(self, turn: Turn) -> None:
        """Make the engine drop a turn, without waiting for it."""
        cancelling = asyncio.create_task(turn.cancel(), name="orpheus-cancel")
        self._abandoned.add(cancelling)
        cancelling.add_done_callback(self._abandoned.discard)

    def _check_voice(self, voice: str | None) -> None:
        if voice is not None:
            self._engine.check_voice(voice)


def _pacer(text_pacing: tts.SentenceStreamPacer | bool) -> tts.SentenceStreamPacer | None:
    if text_pacing is True:
        return tts.SentenceStreamPacer()
    return text_pacing or None
