"""`LocalEngine`: the engine that runs the model in this process, on a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import Awaitable, Callable
from concurrent.futures import Future

from orpheus_plugin import models
from orpheus_plugin.engine.admission import TICK_S, Admission, Progress, Work, probe
from orpheus_plugin.engine.config import EngineConfig
from orpheus_plugin.engine.factory import MakeGenerator, build_stages, find_files, text_options
from orpheus_plugin.engine.places import Places
from orpheus_plugin.engine.scheduler import Speaker
from orpheus_plugin.engine.utterance_job import Stages
from orpheus_plugin.engine.word_timing import SpeakingRate
from orpheus_plugin.errors import AtCapacity, EngineDied, OrpheusError
from orpheus_plugin.models.devices import pick_device
from orpheus_plugin.models.files import ModelFiles
from orpheus_plugin.turn import (
    MAX_WAIT_S,
    SAMPLE_RATE,
    Deliver,
    EngineHealth,
    EngineLoad,
    SpeechOptions,
    Turn,
    TurnEvent,
    check_number,
)

logger = logging.getLogger(__name__)

RATES = 64
"""Voices whose speed is remembered. A model that lists no voices takes any name a client thinks of."""


class LocalEngine:
    """Generator and codec in this process, batching the turns of every event loop in it.

    All model work is on other threads (or vLLM's processes); `open_turn`, `push_text` and iterating cost the caller's
    loop microseconds.

    Args:
        config: what to run.
        files, generator: stand-ins for what `config` would find and build (tests, custom engines).
    """

    def __init__(
        self,
        config: EngineConfig | None = None,
        *,
        files: ModelFiles | None = None,
        generator: MakeGenerator | None = None,
    ) -> None:
        self.config = config or EngineConfig()
        self._files = files or find_files(self.config)
        self._make_generator = generator
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self._starting: Future[None] | None = None
        self._start_task: asyncio.Task[None] | None = None
        self._stages: Stages | None = None
        self._started = False
        self._ready = asyncio.Event()  # on the engine's loop: not set while it restarts
        self._restarting: asyncio.Task[None] | None = None
        self._restarts = 0
        self._failure: OrpheusError | None = None
        self._speakers: dict[str, Speaker] = {}
        self._rates: dict[str, SpeakingRate] = {}  # by voice, the last used at the end
        self._admission = Admission(self.config.max_turns or 0)
        self._places = Places(lambda: self._admission.limit)
        self._watching: asyncio.Task[None] | None = None
        self._ended = Work(0.0, 0.0)  # of the turns that are no more

    # ---- life

    async def start(self) -> None:
        with self._lock:
            if self._starting is None or (
                self._starting.done() and self._starting.exception() is not None
            ):
                self._closed = False
                if self._loop is None:
                    self._loop = asyncio.new_event_loop()
                    self._thread = threading.Thread(
                        target=_run_loop, args=(self._loop,), name="orpheus-engine", daemon=True
                    )
                    self._thread.start()
                self._starting = asyncio.run_coroutine_threadsafe(self._start(), self._loop)
            starting = self._starting
        try:
            await asyncio.shield(asyncio.wrap_future(starting))
        except asyncio.CancelledError:
            if starting.cancelled():
                raise EngineDied("the engine was closed while it started") from None
            raise

    @property
    def closed(self) -> bool:
        """Whether it was closed and not started since: whoever keeps engines for others then makes a new one."""
        return self._closed

    async def aclose(self) -> None:
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = self._starting = None
            self._closed = True
        if loop is None or thread is None:
            return
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._stop(), loop))
        loop.call_soon_threadsafe(loop.stop)
        await asyncio.to_thread(thread.join)

    async def _start(self) -> None:
        began = time.monotonic()
        self._start_task = asyncio.current_task()
        self._ready = asyncio.Event()
        self._failure = None
        self._stages = await self._load()
        try:
            await self._warm_up()
        except BaseException:
            await self._unload()
            raise
        self._ready.set()
        self._started = True
        logger.info(
            "orpheus engine ready in %.1f s: model %s on %s, %d turns at once",
            time.monotonic() - began,
            self._files.spec.name,
            type(self._stages.generator).__name__,
            self._admission.limit,
        )

    async def _load(self) -> Stages:
        building = asyncio.ensure_future(asyncio.to_thread(self._build))
        try:
            stages = await asyncio.shield(building)
            await stages.generator.start()
        except BaseException:
            await asyncio.wait({building})  # a thread cannot be cancelled
            if building.exception() is None:
                await asyncio.to_thread(building.result().codec.close)
            raise
        return stages

    def _build(self) -> Stages:
        """Blocking: on a worker thread."""
        device = pick_device(self.config.device)
        max_turns = self.config.max_turns or (64 if device.startswith("cuda") else 8)
        if self._admission.ceiling != max_turns:
            self._admission = Admission(max_turns)
        return build_stages(
            self.config,
            self._files,
            device=device,
            streams=max_turns * self.config.look_ahead,
            generator=self._make_generator,
        )

    async def _warm_up(self) -> None:
        """Speak a word through everything, so that the first caller does not pay for first-use costs."""
        assert self._stages is not None
        stages = self._stages

        async def running() -> Stages:
            return stages

        failures: list[OrpheusError] = []

        def discard(*events: TurnEvent | OrpheusError) -> bool:
            failures.extend(event for event in events if isinstance(event, OrpheusError))
            return True

        speaker = self._speaker(
            "warm-up",
            self.check_voice(None),
            SpeechOptions(seed=0),
            running,
            discard,
            on_end=lambda error: None,
        )
        speaker.push_text("Hello there.")
        speaker.end()
        await speaker.wait()
        if failures and isinstance(failures[0], EngineDied):
            raise failures[0]
        if self.config.measure:
            await self._measure(running)

    async def _measure(self, stages: Callable[[], Awaitable[Stages]]) -> None:
        """See how fast 1, 2, 4 ... turns at once are, up to what there is room or time for; then keep looking."""

        def speak(turn_id: str, deliver: Deliver) -> Speaker:
            voice, options = self.check_voice(None), SpeechOptions()
            return self._speaker(
                turn_id, voice, options, stages, deliver, on_end=lambda error: None
            )

        admission, turns = self._admission, 1
        while True:
            speed = await probe(turns, speak)
            if speed is not None:
                admission.learn(turns, speed)
            if turns == admission.ceiling or not admission.suffices(turns):
                break
            turns = min(2 * turns, admission.ceiling)
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            speakers = self._speakers.values()
            done = Work(
                self._ended.audio_s + sum(s.stats.audio_s for s in speakers),
                self._ended.busy_s + sum(s.busy_s for s in speakers),
            )
            self._admission.look(
                [Progress(s.stretch_s, s.ahead_s, s.generating) for s in speakers], done
            )
            self._places.fill()

    async def _stop(self) -> None:
        self._ready.clear()  # the turns that end now are no reason to start anew
        chores = [
            task
            for task in (self._start_task, self._watching, self._restarting)
            if task is not None and not task.done()
        ]
        for task in chores:
            task.cancel()
        await asyncio.gather(*chores, return_exceptions=True)
        self._ready.clear()  # a start or restart that ended just now has set it
        self._started = False
        closed = EngineDied("the engine was closed")
        await asyncio.gather(*(speaker.aclose(closed) for speaker in list(self._speakers.values())))
        await self._unload()

    async def _unload(self) -> None:
        stages, self._stages = self._stages, None
        if stages is not None:
            try:
                await stages.generator.aclose()
            finally:
                await asyncio.to_thread(stages.codec.close)

    # ---- turns

    def open_turn(self, options: SpeechOptions | None = None, *, max_wait_s: float = 0.0) -> Turn:
        options = options or SpeechOptions()
        check_number("max_wait_s", max_wait_s, 0.0, MAX_WAIT_S)
        voice = self.check_voice(options.voice)
        # Under the lock, so that what is posted here comes before `_stop`, which ends it.
        with self._lock:
            loop = self._loop
            if loop is None or not self._started:
                raise EngineDied("the engine is not running; await engine.start() first")
            if self._failure is not None:
                loop.call_soon_threadsafe(self._begin_restart)
                raise EngineDied(
                    f"the engine died and could not be restarted ({self._failure}); it is being tried again"
                )
            turn_id = uuid.uuid4().hex[:12]
            link = _LocalLink(loop)
            turn = Turn(turn_id, link, max_chars=self.config.max_text_chars)
            admitted = self._places.enter(turn_id, may_wait=max_wait_s > 0)
            loop.call_soon_threadsafe(self._open, turn, link, voice, options, admitted, max_wait_s)
        return turn

    def _open(
        self,
        turn: Turn,
        link: _LocalLink,
        voice: str | None,
        options: SpeechOptions,
        admitted: asyncio.Event,
        max_wait_s: float,
    ) -> None:
        async def stages() -> Stages:
            await admitted.wait()
            return await self._await_stages()

        def give_up() -> None:
            if not admitted.is_set():
                limit = self._admission.limit
                speaker.stop(
                    AtCapacity(f"none of {limit} places came free within {max_wait_s:g} s")
                )

        def retire(error: OrpheusError | None) -> None:
            if patience is not None:
                patience.cancel()
            placed.cancel()
            self._speakers.pop(turn.id, None)
            self._ended = Work(
                self._ended.audio_s + speaker.stats.audio_s, self._ended.busy_s + speaker.busy_s
            )
            self._places.leave(turn.id)
            if error is not None:
                self._note_error(error)

        speaker = self._speaker(turn.id, voice, options, stages, turn.deliver, on_end=retire)
        placed = asyncio.ensure_future(admitted.wait())
        placed.add_done_callback(lambda done: None if done.cancelled() else turn.admit())
        patience: asyncio.TimerHandle | None = None
        if not admitted.is_set():
            patience = asyncio.get_running_loop().call_later(max_wait_s, give_up)
        self._speakers[turn.id] = speaker
        link.attach(speaker)

    def _speaker(
        self,
        turn_id: str,
        voice: str | None,
        options: SpeechOptions,
        stages: Callable[[], Awaitable[Stages]],
        deliver: Deliver,
        *,
        on_end: Callable[[OrpheusError | None], None],
    ) -> Speaker:
        return Speaker(
            turn_id,
            stages=stages,
            voice=voice,
            options=options,
            text_options=text_options(self._files.spec),
            deliver=deliver,
            look_ahead=self.config.look_ahead,
            ahead_s=self.config.ahead_s,
            on_end=on_end,
            rate=self._rate(voice or ""),
        )

    def _rate(self, voice: str) -> SpeakingRate:
        """What is known of a voice's speed: its turns teach each other."""
        rate = self._rates.pop(voice, None) or SpeakingRate()
        self._rates[voice] = rate
        if len(self._rates) > RATES:
            del self._rates[next(iter(self._rates))]
        return rate

    # ---- staying alive

    async def _await_stages(self) -> Stages:
        await self._ready.wait()
        if self._stages is None:
            raise EngineDied(str(self._failure or "the engine was closed"))
        return self._stages

    def _note_error(self, error: OrpheusError) -> None:
        """A turn ended with this error. If the engine died, bring it back; other turns wait for it."""
        if isinstance(error, EngineDied):
            self._begin_restart()

    def _begin_restart(self) -> None:
        if self._ready.is_set():  # else it is under way, or the engine is closing
            self._ready.clear()
            self._restarting = asyncio.get_running_loop().create_task(self._restart())

    async def _restart(self) -> None:
        logger.error("the engine died, restarting it")
        try:
            await self._unload()
            self._stages = await self._load()
            self._failure = None
            self._restarts += 1
            logger.warning("the engine is back")
        except OrpheusError as error:
            self._failure = error
            logger.exception("the engine could not be restarted")
        except Exception as error:
            self._failure = EngineDied(repr(error))
            logger.exception("the engine could not be restarted")
        finally:
            self._ready.set()

    # ---- facts

    @property
    def voices(self) -> tuple[str, ...]:
        return self._files.spec.voices

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
        return models.check_voice(self._files.spec, voice, strict=self.config.strict_voices)

    def health(self) -> EngineHealth:
        stages = self._stages
        return EngineHealth(
            ready=self._started and stages is not None and self._ready.is_set(),
            model=self._files.spec.name,
            generator=type(stages.generator).__name__ if stages is not None else "none",
            active_turns=self._places.taken,
            max_turns=self._admission.limit,
            restarts=self._restarts,
            error=str(self._failure) if self._failure is not None else None,
            waiting=self._places.waiting,
        )

    def load(self) -> EngineLoad:
        """From any thread."""
        stages, speakers = self._stages, list(self._speakers.values())
        margins = [s.ahead_s for s in speakers if s.generating and s.stats.audio_s]
        return EngineLoad(
            generating=stages.generator.running if stages is not None else 0,
            decoding=stages.codec.active if stages is not None else 0,
            queued=sum(speaker.queued for speaker in speakers),
            margin_s=min(margins, default=None),
            waiting=self._places.waiting,
        )


class _LocalLink:
    """Carries a turn's commands to the engine's loop, in order."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._speaker: Speaker | None = None
        self._consumed = 0

    def attach(self, speaker: Speaker) -> None:
        self._speaker = speaker

    def send_text(self, text: str) -> None:
        self._post(lambda speaker: speaker.push_text(text))

    def send_flush(self) -> None:
        self._post(lambda speaker: speaker.flush())

    def send_end(self) -> None:
        self._post(lambda speaker: speaker.end())

    def consumed(self, samples: int) -> None:
        # Each report wakes the engine's loop; it is about a minute of audio, not about a chunk of it.
        self._consumed += samples
        if self._consumed >= SAMPLE_RATE:
            samples, self._consumed = self._consumed, 0
            self._post(lambda speaker: speaker.consumed(samples))

    def send_cancel(self) -> Future[None]:
        try:
            return asyncio.run_coroutine_threadsafe(self._cancel(), self._loop)
        except RuntimeError:  # the engine was closed meanwhile: nothing is held
            done: Future[None] = Future()
            done.set_result(None)
            return done

    async def _cancel(self) -> None:
        if self._speaker is not None:
            await self._speaker.aclose()

    def _post(self, command: Callable[[Speaker], None]) -> None:
        def run() -> None:
            if self._speaker is not None:
                command(self._speaker)

        try:
            self._loop.call_soon_threadsafe(run)
        except RuntimeError as error:
            raise EngineDied("the engine was closed") from error


# ---- sharing


_shared: dict[EngineConfig, LocalEngine] = {}
_shared_lock = threading.Lock()


def shared_engine(config: EngineConfig | None = None) -> LocalEngine:
    """The process' engine of this configuration: every adapter that asks for it gets the same one. Not yet started."""
    config = config or EngineConfig()
    with _shared_lock:
        engine = _shared.get(config)
        if engine is None or engine.closed:
            engine = _shared[config] = LocalEngine(config)
        return engine


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
