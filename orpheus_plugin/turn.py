"""The Turn: one stretch of speech, text deltas in, ordered events out. Every adapter and protocol
uses it.

A Pipecat audio context, a LiveKit segment, a websocket context, an HTTP request and
`orpheus-tts say` are each one Turn. The Turn is only the caller's end. The engine's end, in this
process or in a server, is reached through its `TurnLink`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Protocol, Self

from orpheus_plugin.errors import InvalidOptions, OrpheusError, TextTooLong, TurnClosed
from orpheus_plugin.text.pronunciations import Pronunciations
from orpheus_plugin.text.think import Reading, without_thoughts

SAMPLE_RATE = 24_000
"""Hz: the rate of SNAC and so of Orpheus. Every AudioChunk is mono s16le at this rate."""

SPEEDS = (0.5, 2.0)
GAINS_DB = (-40.0, 20.0)
"""The lowest and the highest that a turn may ask for."""

MAX_WAIT_S = 600.0
"""The longest `max_wait_s` of a turn."""

MAX_TEXT_CHARS = 6_144
"""Characters of text one turn takes unless the engine is configured otherwise."""


@dataclass(frozen=True, slots=True)
class SpeechOptions:
    """What a turn may choose. None means the model's own default.

    Attributes:
        voice: a voice of the model; None is its first.
        temperature: >= 0; 0 is greedy.
        top_p: in (0, 1].
        repetition_penalty: >= 1; Orpheus 3B needs >= 1.1.
        seed: makes the turn repeatable on the same engine; None draws a random one.
        trim_leading_silence: drop the near-silence before the first sound, except for 50 ms.
            Orpheus starts with 0.4 to 0.7 s of it (canopyai/Orpheus-TTS issues 228 and 299).
        spell_numbers: write out numbers, money, dates and the like before the model reads them;
            None is the engine's setting.
        pronunciations: written word -> how it is spoken, in addition to the engine's own; see
            `text.Pronunciations`.
        speed: of speech at the same pitch, 0.5 to 2; 2 is twice as fast. Word times and positions
            are those of the audio as it is heard.
        gain_db: added to the loudness, -40 to 20; speech that gets too loud is limited, not
            clipped.
    """

    voice: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    trim_leading_silence: bool = True
    spell_numbers: bool | None = None
    pronunciations: Mapping[str, str] | None = None
    speed: float | None = None
    gain_db: float | None = None

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, 0.0, 5.0)
        check_number("top_p", self.top_p, 0.0, 1.0, open_low=True)
        check_number("repetition_penalty", self.repetition_penalty, 1.0, 5.0)
        check_number("speed", self.speed, *SPEEDS)
        check_number("gain_db", self.gain_db, *GAINS_DB)
        if self.voice is not None and not isinstance(self.voice, str):
            raise InvalidOptions(f"voice must be a string, not {type(self.voice).__name__}")
        if self.seed is not None and (
            isinstance(self.seed, bool)
            or not isinstance(self.seed, int)
            or not 0 <= self.seed < 2**63
        ):
            raise InvalidOptions(f"seed must be an integer from 0 to 2**63 - 1, not {self.seed!r}")
        if self.spell_numbers is not None and not isinstance(self.spell_numbers, bool):
            raise InvalidOptions(
                f"spell_numbers must be true or false, not {type(self.spell_numbers).__name__}"
            )
        if self.pronunciations is not None:
            object.__setattr__(self, "pronunciations", Pronunciations(self.pronunciations))


def check_number(
    name: str, value: object, low: float, high: float, *, open_low: bool = False
) -> None:
    """Raises InvalidOptions unless the value is None or a number from `low` (or above it) to
    `high`."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidOptions(f"{name} must be a number, not {type(value).__name__}")
    if not low <= value <= high or (open_low and value == low):
        left = "more than" if open_low else "at least"
        raise InvalidOptions(f"{name} must be {left} {low:g} and at most {high:g}, not {value!r}")


@dataclass(frozen=True, slots=True)
class AudioChunk:
    """Consecutive audio of a turn: mono s16le at 24 kHz.

    Attributes:
        pcm: whole samples, at least one.
        position: index of the first sample in the turn's audio; chunks follow each other without
            gap or overlap.
        utterance: index of the utterance it belongs to.
    """

    pcm: bytes
    position: int
    utterance: int

    @property
    def samples(self) -> int:
        return len(self.pcm) // 2

    @property
    def duration_s(self) -> float:
        return self.samples / SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class Word:
    """A word and its estimated place in the turn's audio. It comes before the audio that contains
    its start.

    Attributes:
        text: the word as it was written, punctuation included, emotion tags left out.
        start_s, end_s: seconds from the turn's first sample, estimated; no word starts before the
            one ahead of it.
        utterance: index of the utterance it belongs to.
        space_after: whether a space follows it in the text (not in Chinese, nor inside a word that
            was cut in two).
    """

    text: str
    start_s: float
    end_s: float
    utterance: int
    space_after: bool = True


@dataclass(slots=True)
class TurnStats:
    """What a turn cost, filled while it speaks.

    Attributes:
        text_chars: characters pushed.
        utterances: pieces the text was cut into.
        prompt_tokens: tokens the model read: text, voice and control tokens of every utterance that
            was begun.
        tokens: audio tokens generated, including look-ahead that was cancelled.
        audio_s: seconds of audio delivered.
        ttfa_s: seconds from the first text to the first delivered audio; None while there is none.
        busy_s: seconds during which the turn had an utterance in the engine.
        trimmed_s: leading near-silence that was dropped.
        underruns: gaps of 20 ms and more that a player which plays at once would leave although the
            text was there. One that buffers leaves fewer.
        retries: utterances generated again with another seed.
        cut_short: utterances that the runaway guard ended.
        skipped_ids: generated ids that did not fit into a frame.
        resumed: times the turn lost its server and went on at another one. Tokens and times are
            those of the last server.
    """

    text_chars: int = 0
    utterances: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    audio_s: float = 0.0
    ttfa_s: float | None = None
    busy_s: float = 0.0
    trimmed_s: float = 0.0
    underruns: int = 0
    retries: int = 0
    cut_short: int = 0
    skipped_ids: int = 0
    resumed: int = 0

    def add(self, utterance: TurnStats) -> None:
        """Add the figures of one utterance."""
        self.prompt_tokens += utterance.prompt_tokens
        self.tokens += utterance.tokens
        self.trimmed_s += utterance.trimmed_s
        self.retries += utterance.retries
        self.cut_short += utterance.cut_short
        self.skipped_ids += utterance.skipped_ids

    @property
    def rtfx(self) -> float | None:
        """Seconds of audio per second of work: above 1 is faster than real time."""
        return self.audio_s / self.busy_s if self.busy_s > 0 and self.audio_s > 0 else None


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """The last event of a turn."""

    reason: Literal["done", "cancelled"]
    stats: TurnStats = field(default_factory=TurnStats)


TurnEvent = AudioChunk | Word | TurnEnd


class TurnLink(Protocol):
    """The engine's end of a turn. Its methods are called on the caller's loop and never block
    it."""

    def send_text(self, text: str) -> None: ...
    def send_flush(self) -> None: ...
    def send_end(self) -> None: ...

    def send_cancel(self) -> Future[None]:
        """Drop everything of this turn. The future is done when the engine has released it (a step
        in flight may still run)."""
        ...

    def consumed(self, samples: int) -> None:
        """The caller took this many samples out of the turn: back-pressure for the engine."""
        ...


class Turn:
    """One turn of speech.

        turn = engine.open_turn(SpeechOptions(voice="tara"))
        turn.push_text("Hello "); turn.push_text("there."); turn.end()
        async for event in turn: ...     # AudioChunk | Word | TurnEnd, in order

    Used on the event loop that opened it. Leaving the iterator early, `cancel`, or leaving
    `async with turn` frees the engine at once. Iterating raises the OrpheusError that ended the
    turn, if one did. A turn is iterated once.
    """

    def __init__(self, turn_id: str, link: TurnLink, *, max_chars: int = MAX_TEXT_CHARS) -> None:
        self.id = turn_id
        self.stats = TurnStats()
        self._link = link
        self._max_chars = max_chars
        self._chars = 0
        self._reading = Reading()
        self._closed_for_text = False
        self._finished = False
        self._let_go: Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[TurnEvent | OrpheusError] = asyncio.Queue()
        self._place = asyncio.Event()
        self._error: OrpheusError | None = None

    # ---- text in

    @property
    def max_chars(self) -> int:
        """Characters of text the turn takes."""
        return self._max_chars

    def push_text(self, text: str) -> None:
        """Add a piece of text; pieces are joined as they come, so spaces between words must be in
        them.

        Text between `<think>` and `</think>` is left out and does not count.

        Raises:
            TextTooLong: the turn's text would exceed the limit; nothing of this piece is taken.
            TurnClosed: after `end` or `cancel`.
        """
        if self._closed_for_text:
            raise TurnClosed("this turn has been ended; open another one for more text")
        spoken, reading = without_thoughts(text, self._reading)
        chars = self._chars + len(spoken) + len(reading.pending)
        if chars > self._max_chars:
            raise TextTooLong(
                f"a turn takes {self._max_chars} characters, this text would make it"
                f" {chars}; split it over several turns"
            )
        self._reading = reading
        self._send(spoken)

    def flush(self) -> None:
        """Speak all text pushed so far without waiting for the end of its sentence."""
        if not self._closed_for_text:
            self._send_pending()
            self._link.send_flush()

    def end(self) -> None:
        """No more text will come. Idempotent."""
        if not self._closed_for_text:
            self._send_pending()
            self._closed_for_text = True
            self._link.send_end()

    def _send(self, text: str) -> None:
        if text:
            self._chars += len(text)
            self._link.send_text(text)

    def _send_pending(self) -> None:
        if pending := self._reading.pending:
            self._reading = Reading()
            self._send(pending)

    # ---- events out

    async def admitted(self) -> None:
        """Returns when the turn has its place, or was cancelled. Raises the OrpheusError that ended
        it before that.

        Needed only to report it to a client: text may be pushed and events read before.
        """
        await self._place.wait()
        if self._error is not None:
            raise self._error

    async def __aiter__(self) -> AsyncGenerator[TurnEvent, None]:
        try:
            while not self._finished:
                event = await self._events.get()
                if isinstance(event, OrpheusError):
                    self._finished = True
                    raise event
                if isinstance(event, AudioChunk):
                    self._link.consumed(event.samples)
                elif isinstance(event, TurnEnd):
                    self._finished = True
                yield event
        finally:
            if not self._finished:
                self.abandon()

    async def cancel(self) -> None:
        """Stop speaking; returns when the engine has released this turn (a step in flight may still
        run). Idempotent."""
        self.abandon()
        if self._let_go is not None:
            await asyncio.shield(asyncio.wrap_future(self._let_go))

    def abandon(self) -> Future[None] | None:
        """As `cancel`, without waiting: for cleanup that must not be interrupted. Idempotent.

        Returns a future that is done when the engine has released this turn; None for a turn that
        has ended.
        """
        self._closed_for_text = True
        self._place.set()
        if self._finished:
            return self._let_go
        self._finished = True
        # Wake an iterator that waits in another task.
        self._events.put_nowait(TurnEnd("cancelled", self.stats))
        self._let_go = self._link.send_cancel()
        return self._let_go

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.cancel()

    @property
    def ended(self) -> bool:
        """Whether its last event was read, or it was cancelled."""
        return self._finished

    # ---- called by the link

    @property
    def orphaned(self) -> bool:
        """Whether its loop is closed, so that it cannot be read any more."""
        return self._loop.is_closed()

    def admit(self) -> None:
        """The turn has a place. From any thread."""
        with contextlib.suppress(RuntimeError):  # the caller's loop is gone
            self._loop.call_soon_threadsafe(self._place.set)

    def deliver(self, *events: TurnEvent | OrpheusError) -> bool:
        """Hand events to the caller, from any thread. False if the caller's loop is closed: the
        turn should be dropped.

        Each call wakes the caller's loop, so events that are ready together should come in one
        call.
        """
        try:
            self._loop.call_soon_threadsafe(self._take, events)
        except RuntimeError:
            return False
        return True

    def _take(self, events: Sequence[TurnEvent | OrpheusError]) -> None:
        for event in events:
            if isinstance(event, TurnEnd):
                self.stats = event.stats
            if isinstance(event, OrpheusError):
                self._error = event
            if isinstance(event, TurnEnd | OrpheusError):
                self._closed_for_text = True
                self._place.set()
            if not self._finished:
                self._events.put_nowait(event)


@dataclass(frozen=True, slots=True)
class EngineHealth:
    """A snapshot for health checks and metrics.

    Attributes:
        active_turns: turns that have a place.
        max_turns: places that exist now.
        waiting: turns in line for a place.
        restarts: times a dead engine was started again.
        error: why it is not ready, if that is known.
    """

    ready: bool
    model: str
    generator: str
    active_turns: int
    max_turns: int
    restarts: int
    error: str | None = None
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """The work of an engine at the moment, for metrics and load balancing.

    Attributes:
        generating: utterances whose tokens are being generated: the size of the generator's batch.
        decoding: utterances that have a place in the codec.
        queued: utterances that wait to be generated.
        margin_s: seconds of audio left to the caller who has least; None when no turn is speaking.
        waiting: turns in line for a place.
        prebuffer_s: seconds of audio that turns begin with, so that they have no underruns on a
            slow machine.
        orphaned: turns, since the start, that were ended because their caller was gone.
        codec_steps: steps of the codec since the start.
        codec_eager_steps: how many of them had a shape that was not captured on the GPU; they take
            several times as long.
        cache_hits, cache_misses: utterances that came from the phrase cache, and that had to be
            generated although there is one.
        cached_s: seconds of audio that came from it.
        cache_bytes: what it holds.
    """

    generating: int = 0
    decoding: int = 0
    queued: int = 0
    margin_s: float | None = None
    waiting: int = 0
    prebuffer_s: float = 0.0
    orphaned: int = 0
    codec_steps: int = 0
    codec_eager_steps: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    cached_s: float = 0.0
    cache_bytes: int = 0


class SpeechEngine(Protocol):
    """What adapters and servers need. Methods may be called from any thread with a running event
    loop."""

    async def start(self) -> None:
        """Load and warm up; returns at once if it is running. Raises ModelNotFound, BadCheckpoint,
        ConnectionFailed..."""

    async def aclose(self) -> None:
        """End all turns and free everything. Idempotent."""

    def open_turn(self, options: SpeechOptions | None = None, *, max_wait_s: float = 0.0) -> Turn:
        """A new turn on the calling event loop.

        Args:
            max_wait_s: seconds the turn may wait in line for a place, first come first served. It
                takes text meanwhile. After that, iterating it raises AtCapacity. With 0 and no free
                place, AtCapacity is raised here at once (through a server: where the turn is
                iterated).

        Raises UnknownVoice, InvalidOptions, AtCapacity, EngineDied.
        """
        ...

    def check_voice(self, voice: str | None) -> str | None:
        """The voice that will speak. Raises UnknownVoice."""
        ...

    @property
    def voices(self) -> tuple[str, ...]:
        """The model's voices, the default first; empty when the model does not name them."""
        ...

    @property
    def adapters(self) -> tuple[str, ...]:
        """The voices that are LoRA adapters; the other ones of `voices` are the base model's
        own."""
        ...

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes ("en") of the languages the model speaks, the default first; empty when they are
        not known (yet)."""
        ...

    @property
    def tags(self) -> tuple[str, ...]:
        """Emotion tags the model knows, without brackets ("laugh"); empty when it knows none."""
        ...

    def health(self) -> EngineHealth: ...

    def load(self) -> EngineLoad: ...
