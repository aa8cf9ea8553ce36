"""The median pitch of a voice's voiced parts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_FRAME, _HOP = 1920, 480
_SHORTEST, _LONGEST = 60, 400
"""Samples of a period at 24 kHz: 400 to 60 Hz."""
_VOICED = 0.5
"""The correlation of a frame with itself a period later from which on it is voiced."""


def median_pitch(sound: npt.NDArray[np.float32]) -> float | None:
    """Hz of 24 kHz samples, by autocorrelation; None where nothing is voiced."""
    if len(sound) < _FRAME:
        return None
    frames = np.lib.stride_tricks.sliding_window_view(sound, _FRAME)[::_HOP]
    loud = np.sqrt((frames.astype(np.float64) ** 2).mean(1))
    frames = frames[loud > 0.1 * loud.max()] if loud.max() > 0 else frames[:0]
    if not len(frames):
        return None
    window = np.hanning(_FRAME)

    def autocorrelation(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        spectrum = np.abs(np.fft.rfft(x, 2 * _FRAME)) ** 2
        return np.asarray(np.fft.irfft(spectrum)[..., : _LONGEST + 1])

    centred = (frames - frames.mean(1, keepdims=True)) * window
    alike = autocorrelation(centred) / autocorrelation(window)
    alike = alike[:, _SHORTEST:] / np.maximum(alike[:, :1], 1e-12)
    # Every multiple of a period correlates, too: take the shortest one that is nearly the best.
    best = alike.max(1)
    period = _SHORTEST + (alike >= 0.9 * best[:, None]).argmax(1)
    # The first value above nine tenths is before the peak: go on to the peak.
    for step in range(len(period)):
        row, at = alike[step], period[step] - _SHORTEST
        while at + 1 < len(row) and row[at + 1] > row[at]:
            at += 1
        period[step] = _SHORTEST + at
    voiced = period[best > _VOICED]
    return float(24_000 / np.median(voiced)) if len(voiced) else None
