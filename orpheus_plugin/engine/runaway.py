"""The runaway guard: recognises, while an utterance streams, that the model does not speak its text
any more.

Orpheus sometimes loops, is silent without stopping, or does not end (isaiahbjork/orpheus-tts-local
issue 2, canopyai/Orpheus-TTS issue 177). Servers of whole files detect that afterwards; an agent
must detect it while it speaks.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

from orpheus_plugin.engine.trim import ONSET_RMS

FRAME_S = 2048 / 24_000
TOKENS_PER_FRAME = 7

_SECONDS_PER_CHAR = 0.2
"""About 2.4 times the time a slow voice needs for a character."""
_SPARE_S = 4.0
_SECONDS_PER_TAG = 3.0


def token_ceiling(text: str) -> int:
    """The most tokens this text may take: far above any plausible reading of it, whole frames."""
    seconds = _SPARE_S + _SECONDS_PER_CHAR * len(text) + _SECONDS_PER_TAG * text.count("<")
    return TOKENS_PER_FRAME * int(seconds / FRAME_S)


class RunawayGuard:
    """Watches an utterance's codes and audio. Cost: under a microsecond per row of codes, one mean
    per audio chunk.

    Args:
        loop_s: this much audio made of one repeating pattern (at least 4 times) is a loop.
        silence_s: this much near-silence in a row is a model that does not stop.
    """

    MAX_PERIOD = 48  # rows: 1 s, the longest pattern that counts as a loop

    def __init__(self, *, loop_s: float = 4.0, silence_s: float = 4.0, rate: int = 24_000) -> None:
        self._loop = int(loop_s * rate / 512)
        self._count = 0  # rows so far
        self._places: dict[
            tuple[int, ...], list[int]
        ] = {}  # where each of the last MAX_PERIOD rows was
        self._history: deque[tuple[int, ...]] = deque()
        self._runs: dict[int, int] = {}  # current runs by period
        self._silence = 0
        self._silence_limit = int(silence_s * rate)

    def push_codes(self, codes: npt.NDArray[np.int32]) -> str | None:
        """int [n, 3] codes as they were generated, a row for 512 samples; the reason to cut the
        utterance, or None.

        A run is the number of successive rows that equal the row a period p before. Speech hardly
        ever repeats a row, so there is seldom more to do than one lookup.
        """
        for row in codes.tolist():
            code = tuple(row)
            places = self._places.setdefault(code, [])
            runs, self._runs = self._runs, {}
            for place in reversed(places):
                period = self._count - place
                run = self._runs[period] = runs.get(period, 0) + 1
                if run >= max(self._loop, 3 * period):
                    return f"the same {period * 512 / 24_000:.2f} s of sound repeated"
            places.append(self._count)
            self._history.append(code)
            self._count += 1
            if len(self._history) > self.MAX_PERIOD:
                self._forget(self._history.popleft())
        return None

    def _forget(self, code: tuple[int, ...]) -> None:
        places = self._places[code]
        del places[0]
        if not places:
            del self._places[code]

    def push_audio(self, samples: npt.NDArray[np.float32]) -> str | None:
        """float32 [n] decoded audio; the reason to cut the utterance, or None."""
        if not samples.size:
            return None
        if float(np.dot(samples, samples)) > samples.size * ONSET_RMS**2:
            self._silence = 0
        else:
            self._silence += samples.size
            if self._silence > self._silence_limit:
                return f"{self._silence / 24_000:.1f} s of silence"
        return None
