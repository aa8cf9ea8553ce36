"""`LocalEngine`: the engine that runs the model in this process, on a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from pathlib import Path

from orpheus_plugin.engine.admission import TICK_S, Admission, Progress, Work
from orpheus_plugin.engine.caller_link import CallerLink
from orpheus_plugin.engine.config import EngineConfig
from orpheus_plugin.engine.delivery import check_speed
from orpheus_plugin.engine.factory import (
    MakeGenerator,
    add_adapters,
    build_parts,
    find_files,
    text_options,
)
from orpheus_plugin.engine.pauses import SpeakingRate
from orpheus_plugin.engine.places import Places
from orpheus_plugin.engine.prebuffer import Prebuffer
from orpheus_plugin.engine.priming import prime
from orpheus_plugin.engine.probe import measure, speak_once
from orpheus_plugin.engine.scheduler import Scheduler
from orpheus_plugin.engine.supervisor import Supervisor
from orpheus_plugin.engine.utterance_job import EngineParts
from orpheus_plugin.errors import AtCapacity, EngineDied, InvalidOptions, OrpheusError
from orpheus_plugin.models.devices import pick_device
from orpheus_plugin.models.files import ModelFiles
from orpheus_plugin.options import MAX_WAIT_S, SpeechOptions, check_number
from orpheus_plugin.speech_engine import EngineHealth, EngineLoad
from orpheus_plugin.tokens.phrases import CacheLoad, PhraseCache, fingerprint
from orpheus_plugin.turn import Turn

logger = logging.getLogger(__name__)

RATES = 64
"""The most voices whose speed is remembered: a model that lists no voices accepts any name."""


class LocalEngine:
    """Generator and codec in this process, batching the turns of every event loop in it.

    All model work is on other threads (or vLLM's processes); `open_turn`, `push_text` and iterating
    cost the caller's loop microseconds.

    Args:
        config: what to run.
        files: used in place of those that `config` describes.
        generator: makes the token engine, in place of the one that `config` describes.
    """

    def __init__(
        self,
        config: EngineConfig | None = None,
        *,
        files: ModelFiles | None = None,
        generator: MakeGenerator | None = None,
    ) -> None:
        self.config = config or EngineConfig()
        self._files = add_adapters(self.config, files or find_files(self.config))
        self._make_generator = generator
        self._supervisor = Supervisor(self._build, self._warm_up, self._end_turns, self._tick)
        self._turns: dict[str, Scheduler] = {}
        self._rates: dict[str, SpeakingRate] = {}  # by voice, the last used at the end
        self._prebuffer = Prebuffer()
        self._admission = Admission(self.config.max_turns or 0)
        self._places = Places(lambda: self._admission.limit)
        self._ended = Work(0.0, 0.0)  # of the turns that ended
        self._orphaned = 0
        self._phrases: PhraseCache | None = None
        if self.config.cache is not None:
            adapters = (Path(one.source) for one in self._files.adapters.values())
            model = fingerprint(self._files.spec.name, self._files.lm, *adapters)
            self._phrases = PhraseCache(self.config.cache, model)
        self._primed = False

    # ---- life

    async def start(self) -> None:
        await self._supervisor.start()

    async def aclose(self) -> None:
        await self._supervisor.aclose()

    @property
    def closed(self) -> bool:
        """Whether it was closed and has not been started since."""
        return self._supervisor.closed

    def _build(self) -> EngineParts:
        """Blocking: on a worker thread."""
        device = pick_device(self.config.device)
        max_turns = self.config.max_turns or (64 if device.startswith("cuda") else 8)
        if self._admission.ceiling != max_turns:
            self._admission = Admission(max_turns)
        return build_parts(
            self.config,
            self._files,
            device=device,
            streams=max_turns * self.config.look_ahead,
            generator=self._make_generator,
            phrases=self._phrases,
        )

    async def _warm_up(self, parts: EngineParts) -> None:
        """Speak a word, so that the first caller does not wait for work that is done at first use.
        Then prime the phrase cache, where that is wanted, and measure: on a GPU before it is ready,
        on a processor afterwards, because somebody waits for it."""
        began = time.monotonic()
        new = partial(self._open_warm_up, parts.uncached, Prebuffer())
        await speak_once(new)
        took, name = time.monotonic() - began, type(parts.uncached.generator).__name__
        logger.info("orpheus engine warm in %.1f s: %s on %s", took, self._files.spec.name, name)
        texts = self._phrases.options.prime if self._phrases is not None else ()
        if self._phrases is not None and texts and not self._primed:
            cached = partial(self._open_warm_up, parts, Prebuffer())
            await prime(cached, self._phrases, texts)
            self._primed = True
        if self.config.measure:
            self._admission.look((), Work(0.0, 0.0))  # a few turns, until more is known
            measuring = self._supervisor.watch(self._measure(new))
            if pick_device(self.config.device) != "cpu":
                await measuring

    async def _measure(self, new: Callable[[], Turn]) -> None:
        with contextlib.suppress(OrpheusError):  # a death is told elsewhere
            await measure(new, self._admission, lambda: bool(self._turns))
        logger.info("orpheus engine: %d turns at once", self._admission.limit)
        self._supervisor.watch(self._observe())

    def _open_warm_up(self, parts: EngineParts, prebuffer: Prebuffer) -> Turn:
        """A turn before the engine is ready. The prebuffer is not the engine's: several turns at
        once on a busy machine would teach it wrong values."""

        async def running() -> EngineParts:
            return parts

        scheduler = self._scheduler(
            "warm-up-" + uuid.uuid4().hex[:8],
            self.check_voice(None),
            SpeechOptions(),
            running,
            prebuffer,
            on_end=lambda error: None,
        )
        link = CallerLink(asyncio.get_running_loop(), scheduler)
        turn = link.make_turn(max_chars=self.config.max_text_chars)
        scheduler.admit()
        scheduler.start()
        return turn

    async def prime(self, texts: Iterable[str], options: SpeechOptions | None = None) -> None:
        """Put what an agent always says into the phrase cache: speak each text, without a listener,
        until the cache replays it. `EngineConfig(cache=CacheOptions(prime=...))` does it at start.

        Raises InvalidOptions without a cache, and what a turn raises.
        """
        if self._phrases is None:
            raise InvalidOptions("prime needs EngineConfig(cache=CacheOptions())")
        new = partial(self.open_turn, options, max_wait_s=MAX_WAIT_S)
        await prime(new, self._phrases, list(texts))

    async def _observe(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            turns = self._turns.values()
            done = Work(
                self._ended.audio_s + sum(turn.meter.stats.audio_s for turn in turns),
                self._ended.busy_s + sum(turn.meter.busy_s for turn in turns),
            )
            self._admission.look(
                [Progress(t.meter.stretch_s, t.meter.clock.ahead_s, t.generating) for t in turns],
                done,
            )
            self._places.fill()

    async def _end_turns(self, error: OrpheusError, busy_only: bool) -> None:
        turns = [turn for turn in self._turns.values() if turn.generating or not busy_only]
        await asyncio.gather(*(turn.aclose(error) for turn in turns))

    def _tick(self) -> None:
        for turn in list(self._turns.values()):
            turn.look_for_caller()

    # ---- turns

    def open_turn(self, options: SpeechOptions | None = None, *, max_wait_s: float = 0.0) -> Turn:
        options = options or SpeechOptions()
        check_number("max_wait_s", max_wait_s, 0.0, MAX_WAIT_S)
        voice = self.check_voice(options.voice)
        check_speed(options)
        with self._supervisor.running() as loop:
            turn_id = uuid.uuid4().hex[:12]

            def retire(error: OrpheusError | None) -> None:
                del self._turns[turn_id]
                self._orphaned += scheduler.orphaned
                self._ended = Work(
                    self._ended.audio_s + scheduler.meter.stats.audio_s,
                    self._ended.busy_s + scheduler.meter.busy_s,
                )
                self._places.leave(turn_id)
                if isinstance(error, EngineDied):
                    self._supervisor.restart(error)

            scheduler = self._scheduler(
                turn_id,
                voice,
                options,
                self._supervisor.running_parts,
                self._prebuffer,
                on_end=retire,
            )
            turn = CallerLink(loop, scheduler).make_turn(max_chars=self.config.max_text_chars)
            self._places.enter(turn_id, scheduler.admit, may_wait=max_wait_s > 0)
            loop.call_soon_threadsafe(self._begin, scheduler, max_wait_s)
        return turn

    def _begin(self, scheduler: Scheduler, max_wait_s: float) -> None:
        self._turns[scheduler.id] = scheduler
        scheduler.start()
        if not scheduler.admitted.is_set():
            loop = asyncio.get_running_loop()
            loop.call_later(max_wait_s, self._give_up, scheduler, max_wait_s)

    def _give_up(self, scheduler: Scheduler, waited_s: float) -> None:
        if not scheduler.admitted.is_set():
            limit = self._admission.limit
            scheduler.stop(AtCapacity(f"none of {limit} places came free within {waited_s:g} s"))

    def _scheduler(
        self,
        turn_id: str,
        voice: str | None,
        options: SpeechOptions,
        parts: Callable[[], Awaitable[EngineParts]],
        prebuffer: Prebuffer,
        *,
        on_end: Callable[[OrpheusError | None], None],
    ) -> Scheduler:
        return Scheduler(
            turn_id,
            parts=parts,
            voice=voice,
            options=options,
            text_options=text_options(self._files.spec, self.config, options),
            look_ahead=self.config.look_ahead,
            ahead_s=self.config.ahead_s,
            rate=self._rate(voice or ""),
            prebuffer=prebuffer,
            on_end=on_end,
        )

    def _rate(self, voice: str) -> SpeakingRate:
        """The speed of a voice, shared by its turns."""
        rate = self._rates.pop(voice, None) or SpeakingRate()
        self._rates[voice] = rate
        if len(self._rates) > RATES:
            del self._rates[next(iter(self._rates))]
        return rate

    # ---- facts

    @property
    def voices(self) -> tuple[str, ...]:
        return self._files.spec.voices

    @property
    def adapters(self) -> tuple[str, ...]:
        return tuple(self._files.adapters)

    @property
    def languages(self) -> tuple[str, ...]:
        return self._files.spec.languages

    @property
    def tags(self) -> tuple[str, ...]:
        return self._files.spec.tags

    @property
    def files(self) -> ModelFiles:
        return self._files

    def check_voice(self, voice: str | None) -> str | None:
        return self._files.check_voice(voice, strict=self.config.strict_voices)

    def health(self) -> EngineHealth:
        supervisor = self._supervisor
        parts, failure = supervisor.parts, supervisor.failure
        return EngineHealth(
            ready=supervisor.ready,
            model=self._files.spec.name,
            generator=type(parts.uncached.generator).__name__ if parts is not None else "none",
            active_turns=self._places.taken,
            max_turns=self._admission.limit,
            restarts=supervisor.restarts,
            error=str(failure) if failure is not None else None,
            waiting=self._places.waiting,
        )

    def load(self) -> EngineLoad:
        """From any thread."""
        parts, turns = self._supervisor.parts, list(self._turns.values())
        cache = self._phrases.load() if self._phrases is not None else CacheLoad()
        steps, eager = parts.codec.steps if parts is not None else (0, 0)
        meters = [turn.meter for turn in turns if turn.generating]
        margins = [meter.clock.ahead_s for meter in meters if meter.stats.audio_s]
        return EngineLoad(
            generating=parts.generator.running if parts is not None else 0,
            decoding=parts.codec.active if parts is not None else 0,
            queued=sum(turn.queued for turn in turns),
            margin_s=min(margins, default=None),
            waiting=self._places.waiting,
            prebuffer_s=self._prebuffer.size_s,
            orphaned=self._orphaned,
            codec_steps=steps,
            codec_eager_steps=eager,
            cache_hits=cache.hits,
            cache_misses=cache.misses,
            cached_s=cache.hit_s,
            cache_bytes=cache.bytes,
        )


# ---- sharing


_shared: dict[EngineConfig, LocalEngine] = {}
_shared_lock = threading.Lock()


def shared_engine(config: EngineConfig | None = None) -> LocalEngine:
    """The engine of this configuration in this process: equal configurations get the same one. Not
    yet started."""
    config = config or EngineConfig()
    with _shared_lock:
        engine = _shared.get(config)
        if engine is None or engine.closed:
            engine = _shared[config] = LocalEngine(config)
        return engine
