"""The last steps on decoded audio: leading near-silence is trimmed, samples become s16le."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]

ONSET_RMS = 0.006
"""-44 dBFS over 5 ms: above Orpheus' noise floor, below the quietest consonant that starts a
word."""

_WINDOW = 120  # 5 ms at 24 kHz


class LeadingTrim:
    """Holds back audio until something is audible, then passes it on from `keep_s` before that
    onset.

    Cost: one mean of squares per 5 ms of held-back audio; nothing after the onset.
    """

    def __init__(self, *, enabled: bool = True, keep_s: float = 0.05, rate: int = 24_000) -> None:
        self._open = not enabled
        self._keep = int(keep_s * rate)
        self._held: Samples = np.empty(0, np.float32)
        self.trimmed = 0
        """Samples dropped so far."""

    @property
    def opened(self) -> bool:
        """Whether an audible sample has come (or trimming is off)."""
        return self._open

    def push(self, samples: Samples) -> Samples:
        """float32 [n] in, float32 [m] to emit: none before the onset, everything after it."""
        if self._open:
            return samples
        held = np.concatenate([self._held, samples])
        whole = len(held) // _WINDOW
        windows = held[: whole * _WINDOW].reshape(whole, _WINDOW)
        loud = np.flatnonzero(np.einsum("ij,ij->i", windows, windows) > _WINDOW * ONSET_RMS**2)
        if loud.size:
            self._open = True
            start = max(0, int(loud[0]) * _WINDOW - self._keep)
            self._held = np.empty(0, np.float32)
        else:
            # Audio older than the margin is never emitted: drop it now, and keep whole windows
            # aligned.
            start = max(0, whole * _WINDOW - self._keep - _WINDOW) // _WINDOW * _WINDOW
            self._held = held[start:]
        self.trimmed += start
        return held[start:] if self._open else np.empty(0, np.float32)

    def finish(self) -> None:
        """The utterance ended. Audio that is still held back is not audible and is dropped."""
        self.trimmed += len(self._held)
        self._held = np.empty(0, np.float32)


def to_pcm16(samples: Samples) -> bytes:
    """float32 [n] in -1..1 to s16le, rounded, clipped; a NaN becomes silence. About 10 us per 2048
    samples."""
    if not np.isfinite(np.dot(samples, samples)):  # much cheaper than a check of each sample
        samples = np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=-1.0)
    pcm: bytes = np.clip(np.rint(samples * 32767.0), -32768, 32767).astype("<i2").tobytes()
    return pcm
