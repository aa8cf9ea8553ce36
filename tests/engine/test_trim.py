"""Leading near-silence is trimmed to a margin, nothing else is touched, and samples become
s16le."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orpheus_plugin.engine.trim import LeadingTrim, Samples, to_pcm16

RATE = 24_000


def speech_after(silence_s: float, seed: int = 0) -> Samples:
    """Noise floor at -60 dBFS, then a loud tone."""
    rng = np.random.default_rng(seed)
    quiet = rng.normal(0, 0.001, int(silence_s * RATE)).astype(np.float32)
    tone = 0.3 * np.sin(np.arange(RATE // 2) * 0.1).astype(np.float32)
    return np.concatenate([quiet, tone])


def trimmed(samples: Samples, sizes: list[int]) -> tuple[Samples, LeadingTrim]:
    trim = LeadingTrim()
    out, at = [], 0
    for size in [*sizes, len(samples)]:
        out.append(trim.push(samples[at : at + size]))
        at += size
    trim.finish()
    return np.concatenate(out), trim


def test_fifty_milliseconds_before_the_onset_are_kept() -> None:
    samples = speech_after(0.7)
    kept, trim = trimmed(samples, [512] * 5)
    onset = int(0.7 * RATE)
    assert trim.trimmed + len(kept) == len(samples)
    assert onset - trim.trimmed == pytest.approx(0.05 * RATE, abs=240)
    np.testing.assert_array_equal(kept, samples[trim.trimmed :])


@settings(max_examples=60, deadline=None)
@given(silence=st.floats(0, 1.0), sizes=st.lists(st.integers(0, 5000), max_size=40))
def test_chunking_does_not_change_what_is_kept_by_more_than_a_window(
    silence: float, sizes: list[int]
) -> None:
    samples = speech_after(silence)
    kept, trim = trimmed(samples, sizes)
    whole, _ = trimmed(samples, [])
    assert abs(len(kept) - len(whole)) <= 120
    np.testing.assert_array_equal(kept, samples[trim.trimmed :])


def test_speech_that_starts_at_once_loses_nothing() -> None:
    samples = speech_after(0.0)
    kept, trim = trimmed(samples, [100] * 20)
    assert trim.trimmed == 0
    np.testing.assert_array_equal(kept, samples)


def test_pure_silence_gives_nothing_and_is_reported() -> None:
    samples = np.zeros(RATE, np.float32)
    kept, trim = trimmed(samples, [777] * 10)
    assert kept.size == 0
    assert trim.trimmed == RATE
    assert not trim.opened


def test_without_trimming_all_audio_passes() -> None:
    trim = LeadingTrim(enabled=False)
    silence = np.zeros(1000, np.float32)
    assert trim.push(silence) is silence
    assert trim.opened


def test_pcm_is_little_endian_rounded_and_clipped() -> None:
    samples = np.array([0.0, 1.0, -1.0, 2.0, -2.0, np.nan, 0.5 / 32767 * 1.01], np.float32)
    values = np.frombuffer(to_pcm16(samples), "<i2").tolist()
    assert values == [0, 32767, -32767, 32767, -32768, 0, 1]
