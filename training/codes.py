"""What the 28,672 audio tokens of the bundled voice mean, and how an utterance becomes tokens.

SNAC fixes the frame: 2048 samples, seven tokens, one of the coarse level (85 ms), two of the middle
level (43 ms each), four of the fine level (21 ms each), 4096 rows a level. The codec decides what a
row *means*. A codec trained on sound alone makes codes that a small language model can hardly
predict. Here every row has a meaning that follows from the text:

* fine: ``2 * (32 * phoneme + remaining) + half``: the phoneme (the teacher's symbol; stress marks,
  word gaps and pauses count as phonemes), how many more fine steps it will last, and whether this
  is the first or second half of a middle step.
* middle: ``24 * (4 * pitch + phase) + level``: pitch, the phase of the voice at the start of the
  step, and loudness in 24 steps of 2.5 dB.
* coarse: ``64 * letter + next letter``: where in the text the voice is. The decoder learns almost
  nothing from it; the language model uses it to keep its place in the text. The second voice has
  rows of its own (:func:`coarse`), so that a decoder can tell who speaks.

Pitch comes in whole quarter periods per middle step (5.9 Hz, half a semitone at 200 Hz), so the
phase at the next step is ``phase + pitch`` modulo 4. The language model reads it from the step
before, and the decoder need not invent where the next pulse of the voice is, which is the most
expensive part of a vocoder.

With the remaining time, all but the first token of a phoneme follow from the token before. With the
letters, the model knows what to read next. It decides the rest: which phoneme, how long, at which
pitch, how loud.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from training.align import Aligner, groups_of, words_of
from training.grid import HOP, PAD, UNIT

Ints = npt.NDArray[np.int64]

ROW_SAMPLES = 512
FRAME = 2048
ROWS = 4096
LETTERS = "$abcdefghijklmnopqrstuvwxyz ,.?!'-:"
"""The text alphabet; ``$`` stands for the end of the text."""
PHONEMES = PAD + " .,?!:—;…ˈˌnɹtəsdlkmzpfvwbhjɡɪiɛæðʌɔIAuɑᵊOɐŋTʊʃɜθʤWʧᵻYʒɾʔːaeox"
"""The teacher's symbols; the place in this string is the phoneme's number (at most 64)."""
STEP = 1024
"""Samples of a middle step."""
PITCHES, PHASES, LEVELS = 42, 4, 24
PITCH_BASE = 15
"""Pitch number ``p > 0`` is ``p + PITCH_BASE`` quarter periods in a middle step; 0 is unvoiced."""
REMAINING = 32
LEVEL_LOW, LEVEL_STEP = -70.0, 2.5
"""dB of loudness step 0, and dB between steps."""

SECOND = 64 * len(LETTERS)
"""First coarse row of the second voice; the first voice uses none from here on."""

LETTER_INDEX = {c: i for i, c in enumerate(LETTERS)}
PHONEME_INDEX = {c: i for i, c in enumerate(PHONEMES)}
assert len(PHONEMES) <= 64
assert len(set(PHONEMES)) == len(PHONEMES)


@dataclass(frozen=True)
class Speaker:
    """How a voice is made from the teacher: its pace (1 is the teacher's own), and what the
    teacher's pitch is multiplied with."""

    pace: float = 1.0
    pitch: float = 1.0


VOICES = {"heart": Speaker(), "henry": Speaker(pace=0.85, pitch=0.7)}
"""The voices of the one language model, by the names that prompts give them."""


@dataclass(frozen=True)
class Utterance:
    """One spoken utterance without its sound.

    Attributes:
        text: lower-case text as the language model reads it.
        phonemes: numbers into :data:`PHONEMES`.
        units: duration of each, in units of 600 samples.
        pointers: index into ``text`` of the letter each phoneme reads.
        pitch: Hz per 300 samples, 0 unvoiced.
        level: dB per 300 samples.
        word_phonemes: for each word (end in text, its phonemes); see :func:`spelled_words`.
        voice: who speaks, of :data:`VOICES`.
    """

    text: str
    phonemes: Ints
    units: Ints
    pointers: Ints
    pitch: npt.NDArray[np.float32]
    level: npt.NDArray[np.float32]
    word_phonemes: list[tuple[int, Ints]]
    voice: str = "heart"


@dataclass(frozen=True)
class Frames:
    """An utterance as tokens.

    Attributes:
        codes: ``[frames, 7]``, each below 4096, in the order of Orpheus' slots.
        reading: ``[frames, 7]``, index into the text of the letter read at that token's time.
    """

    codes: Ints
    reading: Ints


def pitch_hz(number: Ints) -> npt.NDArray[np.float64]:
    """Frequency of pitch numbers; 0 for unvoiced."""
    hz = (number + PITCH_BASE) * (24000 / STEP / PHASES)
    return np.where(number > 0, hz, 0.0).astype(np.float64)


def coarse(voice: str, letter: Ints, following: Ints) -> Ints:
    """Coarse rows of a voice that reads ``letter`` before ``following`` (numbers of letters)."""
    if voice == "henry":
        return SECOND + len(LETTERS) * letter + following
    return 64 * letter + following


def melody(pitch: npt.NDArray[np.float32], first: Ints, last: Ints) -> tuple[Ints, Ints]:
    """Pitch numbers and phases of middle steps, each over ``pitch[first:last]`` (Hz, 0
    unvoiced)."""
    voiced = (pitch > 0).astype(np.float64)
    tone = np.where(pitch > 0, np.log(np.maximum(pitch, 1.0)), 0.0)
    sums = np.concatenate([np.zeros((2, 1)), np.cumsum([voiced, tone], axis=1)], axis=1)
    count, total = sums[:, last] - sums[:, first]
    mean = np.exp(total / np.maximum(count, 1))
    number = np.round(mean * STEP / 24000 * PHASES) - PITCH_BASE
    number = np.clip(number, 1, PITCHES - 1).astype(np.int64) * (3 * count >= last - first)
    # The phase continues while the voice does, and starts at 0 after a pause.
    advance = np.where(number > 0, number + PITCH_BASE, 0)
    before = np.cumsum(advance) - advance
    onset = (number > 0) & (np.concatenate([[0], number[:-1]]) == 0)
    start = np.maximum.accumulate(np.where(onset, np.arange(len(number)), 0))
    phase = (before - before[start]) % PHASES * (number > 0)
    return number, phase


def frames(u: Utterance, speed: float = 1.0) -> Frames:
    """Tokens of an utterance, spoken ``speed`` times as fast.

    At speed 1 every fine step carries the phoneme at its centre. A faster reading keeps at least
    one step a phoneme; it needs no new sound and shows the language model more text per token.
    """
    ends = np.cumsum(u.units) * UNIT
    if speed == 1.0:
        steps = -(-int(ends[-1]) // ROW_SAMPLES)
        steps = -(-steps // 4) * 4
        time = (np.arange(steps) + 0.5) * ROW_SAMPLES
        index = np.minimum(np.searchsorted(ends, time, side="right"), len(ends) - 1)
    else:
        length = np.maximum(1, np.round(u.units * UNIT / ROW_SAMPLES / speed)).astype(np.int64)
        length[-1] += -int(length.sum()) % 4
        index = np.repeat(np.arange(len(length)), length)
        steps = len(index)
        first = np.cumsum(length) - length
        inside = (np.arange(steps) - first[index] + 0.5) / length[index]
        time = ends[index] - u.units[index] * UNIT * (1 - inside)
    # Steps left of the same phoneme: distance to the last step with the same index.
    last = np.searchsorted(index, index, side="right") - 1
    remaining = np.minimum(last - np.arange(steps), REMAINING - 1)
    fine = 2 * (REMAINING * u.phonemes[index] + remaining) + np.arange(steps) % 2
    reading = u.pointers[index]

    centre = time.reshape(-1, 2).mean(1)  # middle steps average over 1024 samples
    a = np.clip(((centre - STEP / 2) / HOP).round().astype(np.int64), 0, len(u.pitch) - 1)
    b = np.clip(((centre + STEP / 2) / HOP).round().astype(np.int64), a + 1, len(u.pitch))
    number, phase = melody(u.pitch, a, b)
    power = np.concatenate([[0.0], np.cumsum(10.0 ** (u.level.astype(np.float64) / 10))])
    loud = 10 * np.log10((power[b] - power[a]) / (b - a) + 1e-9)
    level = np.clip(np.round((loud - LEVEL_LOW) / LEVEL_STEP), 0, LEVELS - 1).astype(np.int64)
    middle = LEVELS * (PHASES * number + phase) + level

    letters = np.array([LETTER_INDEX.get(c, 0) for c in u.text] + [0, 0])
    here = reading.reshape(-1, 4)[:, 0]
    rows = coarse(u.voice, letters[here], letters[here + 1])
    f, m, r = fine.reshape(-1, 4), middle.reshape(-1, 2), reading.reshape(-1, 4)
    return Frames(
        np.stack([rows, m[:, 0], f[:, 0], f[:, 1], m[:, 1], f[:, 2], f[:, 3]], 1),
        np.stack([r[:, 0], r[:, 0], r[:, 0], r[:, 1], r[:, 2], r[:, 2], r[:, 3]], 1),
    )


def spelled_words(text: str, symbols: str, phonemes: Ints) -> list[tuple[int, Ints]]:
    """For each word: where it ends in the text, and the phonemes it is read with."""
    pairs = zip(words_of(text), groups_of(symbols), strict=True)
    return [(b, phonemes[s:e]) for (_, b), (s, e) in pairs]


def spoken_in(work: Path, voice: str) -> Path:
    """Folder of the teacher's shards for a voice."""
    return (work if voice == "heart" else work / voice) / "speech"


def load(folder: Path, shards: list[int] | None = None, voice: str = "heart") -> list[Utterance]:
    """All utterances of the teacher's shards whose words pair up with their phonemes, at the pitch
    of a voice."""
    paths = sorted(folder.glob("[0-9][0-9][0-9].npz"))
    if shards is not None:
        paths = [p for p in paths if int(p.stem) in shards]
    rows = []
    for path in paths:
        with np.load(path) as z:
            units, pitch, level = z["units"], z["pitch"], z["level"]
            place = np.concatenate([[0], np.cumsum(z["symbol_count"])])
            total = np.concatenate([[0], np.cumsum(units.astype(np.int64))]) * (UNIT // HOP)
            for i, (text, symbols) in enumerate(zip(z["text"], z["symbols"], strict=True)):
                p, q = int(place[i]), int(place[i + 1])
                s, e = int(total[p]), int(total[q])
                rows.append((str(text).lower(), str(symbols), units[p:q], pitch[s:e], level[s:e]))
    aligner = Aligner()
    pairs = set()
    for text, symbols, *_ in rows[:12000]:
        w, g = words_of(text), groups_of(symbols)
        if len(w) == len(g):
            pairs |= {(text[a:b], symbols[c:d]) for (a, b), (c, d) in zip(w, g, strict=True)}
    aligner.learn(sorted(pairs))
    found = []
    for text, symbols, units, pitch, level in rows:
        pointers = aligner.pointers(text, symbols)
        if pointers is None or any(c not in LETTER_INDEX for c in text):
            continue
        phonemes = np.array([PHONEME_INDEX.get(c, PHONEME_INDEX["ə"]) for c in symbols])
        found.append(
            Utterance(
                text,
                phonemes,
                units.astype(np.int64),
                pointers.astype(np.int64),
                (VOICES[voice].pitch * pitch).astype(np.float32),
                level.astype(np.float32),
                spelled_words(text, symbols, phonemes),
                voice,
            )
        )
    return found
