"""Fast start: play approximated samples first, then join the exact stream without a click.

The exact stream is late by 198 ms because every sample depends on the codes that follow it. The fast start guesses them
(it holds the newest latent), so that samples can leave as soon as their own codes are there. When better samples for
the same place arrive - from a guess with more real context, or exact ones - playing goes over to them within a short
crossfade. No sample is repeated or left out; from the end of the last crossfade on the stream is exact.

The guess costs one uncommitted step of 10 latents each time it is used. benchmarks/first_audio.py has figures: 7 tokens
instead of 18 to the first samples, at an error some 14 dB below the signal until the exact samples have caught up (0.2 s of
audio at 200 tokens a second, 1.8 s at 82). Nobody has judged that by ear, and it is far from exact: it is off by default.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from orpheus_plugin.codec.decoder import LATENT_SAMPLES

Samples = NDArray[np.float32]

FADE_SAMPLES = 240
"""10 ms at 24 kHz: long against a pitch period's discontinuity, short against the 85 ms of a frame."""

HOLD_BACK_SAMPLES = 960
"""40 ms behind which a guess is not played: the newest samples are the ones it gets most wrong.

Measured in the middle of speech with the bundled voice's codec: the error of guessed samples is 2 to 7 dB below the
signal within 960 samples of the newest known code, 10 dB up to 1440, 13 dB up to 2048, 20 dB up to 3072, 30 dB up to 4096
and 53 dB beyond. Holding the newest latent and ending the stream there do alike; repeating a frame does worse.
"""

FIRST_GUESS_LATENTS = 4
"""Guess once a whole frame is there: 7 tokens."""

GUESS_BELOW = 0.08
"""Seconds: a listener with more left to play can wait for the next frame (85 ms at worst) and its better samples."""

GUESS_UP_TO = 0.1
"""Seconds the listener should have after a guess; what lies behind is guessed better with the next frame. Twice as much
made no pause shorter, at 100 to 200 tokens a second, but it took nearly twice as long until all samples were exact."""


class Joiner:
    """Turns exact pieces and guesses, each at its place in the stream, into one gapless sequence.

    Attributes:
        sent: samples handed out so far.
        exact: samples known exactly so far.
    """

    def __init__(self) -> None:
        self.sent = 0
        self.exact = 0
        # What was guessed for [_fade_at, ...) and not handed out.
        self._fade: Samples = np.zeros(0, np.float32)
        self._fade_at = 0

    @property
    def ahead(self) -> bool:
        """Whether the listener has been given samples that are not exact yet."""
        return self.sent > self.exact

    def add_exact(self, piece: Samples) -> Samples:
        """Take the next exact samples, float32 [m]; return those not handed out as guesses before."""
        start, self.exact = self.exact, self.exact + len(piece)
        return self._hand_out(piece[max(0, self.sent - start) :])

    def add_guess(self, guess: Samples, latents: int, most: int) -> Samples:
        """Take guessed samples that follow the exact ones, at least up to sample `512 * latents`, the last one known.

        Returns at most `most` samples from `sent` on, up to HOLD_BACK_SAMPLES before the end; the next piece is faded
        into the FADE_SAMPLES behind them.
        """
        end = min(latents * LATENT_SAMPLES - HOLD_BACK_SAMPLES, self.sent + most)
        guess = guess[self.sent - self.exact : end + FADE_SAMPLES - self.exact]
        if len(guess) <= FADE_SAMPLES:
            return guess[:0]
        out = self._hand_out(guess[:-FADE_SAMPLES])
        self._fade, self._fade_at = guess[-FADE_SAMPLES:].copy(), self.sent
        return out

    def _hand_out(self, new: Samples) -> Samples:
        offset = self.sent - self._fade_at
        overlap = min(len(new), max(0, len(self._fade) - offset))
        if overlap:
            old = self._fade[offset : offset + overlap]
            weight = (np.arange(offset, offset + overlap, dtype=np.float32) + 1) / (
                len(self._fade) + 1
            )
            new = new.copy()
            new[:overlap] += (1 - weight) * (old - new[:overlap])
        self.sent += len(new)
        return new
