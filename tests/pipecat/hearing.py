"""Analysis of recorded audio: words by a recogniser, silence by its level."""

from __future__ import annotations

import difflib
import re
import wave
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tests.support.chromium import AUDIBLE
from tests.support.recogniser import at_16_khz, listener, needs_recogniser

DEAD = 2e-4
"""-74 dBFS: what a codec may leave of nothing at all beside speech."""

STEP_ASIDE = 0.1
"""What it costs to lay two steps of one sound beside one of the other, in decades of level."""

MOST_APART = 0.5
"""Decades of level that two steps can be apart at most: a hole is then not worth a detour to the
next pause."""

UNDERSTOOD = 0.6
"""Share of words by which a text is recognised as what was said: babble of the same voice has next
to none."""


def recognise(samples: npt.NDArray[np.int16], rate: int) -> list[str]:
    """The words, small and without punctuation."""
    needs_recogniser()
    sound = at_16_khz(samples, rate)
    segments, _ = listener().model.transcribe(sound, language="en", beam_size=5)
    text = " ".join(segment.text for segment in segments).lower()
    return re.findall(r"[a-z0-9']+", text)


def understood(text: str, samples: npt.NDArray[np.int16], rate: int) -> float:
    """The share of a text's words that the recogniser heard, in order. The bundled voice is small:
    not all of them."""
    said = re.findall(r"[a-z0-9']+", text.lower())
    heard = recognise(samples, rate)
    matcher = difflib.SequenceMatcher(None, said, heard, autojunk=False)
    return sum(block.size for block in matcher.get_matching_blocks()) / len(said)


def read_wav(path: Path) -> tuple[npt.NDArray[np.int16], int]:
    with wave.open(str(path)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2"), file.getframerate()


def levels(samples: npt.NDArray[np.int16], rate: int, ms: int = 10) -> npt.NDArray[np.float64]:
    """RMS of each stretch of `ms`, full scale 1."""
    size = rate * ms // 1000
    whole = len(samples) // size
    stretches = samples[: whole * size].reshape(whole, size).astype(np.float64) / 32768
    return np.asarray(np.sqrt((stretches**2).mean(axis=1)))


def last_audible_s(samples: npt.NDArray[np.int16], rate: int) -> float:
    """Seconds to the end of the last audible stretch; 0 where all is silent."""
    loud = np.flatnonzero(levels(samples, rate) > AUDIBLE)
    return (int(loud[-1]) + 1) / 100 if loud.size else 0.0


def holes(
    heard: npt.NDArray[np.int16], heard_rate: int, made: npt.NDArray[np.int16], made_rate: int
) -> list[float]:
    """The stretches, in seconds, that are dead silence as they were heard, but not as they were
    made.

    The two are laid side by side first, sound on sound and pause on pause, in steps of 10 ms: so
    pauses of the voice are no holes, and a player that stretches or shortens speech a little makes
    none. Both hold the same speech and no other.
    """
    ours, theirs = (
        _speech(levels(samples, rate)) for samples, rate in ((heard, heard_rate), (made, made_rate))
    )
    if not ours.size or not theirs.size:
        return []
    beside = _side_by_side(np.log10(ours + 1e-3), np.log10(theirs + 1e-3))
    found: list[float] = []
    before = False
    for level, there in zip(ours, beside, strict=True):
        hole = bool(level < DEAD and theirs[there].max() > AUDIBLE)
        if hole and before:
            found[-1] += 0.01
        elif hole:
            found.append(0.01)
        before = hole
    return found


def without_silence(samples: npt.NDArray[np.int16], rate: int) -> npt.NDArray[np.int16]:
    """What is left when every 10 ms of dead silence are cut out."""
    size = rate // 100
    kept = levels(samples, rate) >= DEAD
    return samples[: len(kept) * size].reshape(-1, size)[kept].reshape(-1)


def _speech(levels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    loud = np.flatnonzero(levels > AUDIBLE)
    return levels[loud[0] : loud[-1] + 1] if loud.size else levels[:0]


def _side_by_side(
    heard: npt.NDArray[np.float64], made: npt.NDArray[np.float64], band: int = 150
) -> list[slice]:
    """For each step of one sound the steps of the other it is beside: the cheapest monotonic way
    through both.

    No more than `band` steps off the straight line, or off the other's length.
    """
    band += abs(len(heard) - len(made))
    cost = np.full((len(heard) + 1, len(made) + 1), np.inf)
    cost[0, 0] = 0.0
    for i in range(1, len(heard) + 1):
        middle = i * len(made) // len(heard)
        low, high = max(1, middle - band), min(len(made), middle + band)
        apart = np.minimum(np.abs(made[low - 1 : high] - heard[i - 1]), MOST_APART)
        above = np.minimum(cost[i - 1, low - 1 : high], cost[i - 1, low : high + 1] + STEP_ASIDE)
        left = np.inf
        for j in range(high - low + 1):
            left = min(above[j], left + STEP_ASIDE) + apart[j]
            cost[i, low + j] = left
    ways: list[list[int]] = [[] for _ in heard]
    i, j = len(heard), len(made)
    while i > 0 and j > 0:
        ways[i - 1].append(j - 1)
        steps = {
            (i - 1, j - 1): cost[i - 1, j - 1],
            (i - 1, j): cost[i - 1, j] + STEP_ASIDE,
            (i, j - 1): cost[i, j - 1] + STEP_ASIDE,
        }
        i, j = min(steps, key=lambda at: steps[at])
    return [slice(min(way, default=0), max(way, default=0) + 1) for way in ways]
