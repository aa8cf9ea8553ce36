"""The events of a turn: audio, words, and its end with its statistics."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

SAMPLE_RATE = 24_000
"""Hz: the rate of SNAC and so of Orpheus. Every AudioChunk is mono s16le at this rate."""


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
    """Statistics of a turn, updated while it speaks.

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
        resumed: times the turn lost its server and continued on another one. Tokens and times are
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
