"""Audio for telephone lines: 24 kHz s16le down to 16 or 8 kHz, and to mu-law or A-law (G.711).

soxr resamples, FFmpeg gives the G.711 tables through PyAV. Both come with the `server` extra and
are loaded only for other formats than 24 kHz s16le.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from orpheus_plugin.errors import InvalidOptions
from orpheus_plugin.events import SAMPLE_RATE
from orpheus_plugin.protocol import AudioFormat


class Converter:
    """Converts one stream of audio to one format, in pieces of any size. The result does not depend
    on the pieces."""

    def __init__(self, audio_format: AudioFormat) -> None:
        self.format = audio_format
        self._resampler = (
            None
            if audio_format.sample_rate == SAMPLE_RATE
            else _resampler(audio_format.sample_rate)
        )
        self._table = None if audio_format.encoding == "s16le" else _table(audio_format.encoding)

    def push(self, pcm: bytes) -> bytes:
        """The converted audio that is final; resampling holds some milliseconds back."""
        return self._convert(pcm, last=False)

    def finish(self) -> bytes:
        """The audio that was held back. The converter is not used again."""
        return self._convert(b"", last=True)

    def _convert(self, pcm: bytes, *, last: bool) -> bytes:
        if self._resampler is None and self._table is None:
            return pcm
        samples: npt.NDArray[np.int16] = np.frombuffer(pcm, "<i2")
        if self._resampler is not None:
            # As floats: soxr dithers integers, so the same audio would not give the same bytes
            # again.
            floats = self._resampler.resample_chunk(samples.astype(np.float32), last=last)
            samples = np.clip(np.rint(floats), -32_768, 32_767).astype(np.int16)
        if self._table is not None:
            return self._table[samples.view(np.uint16)].tobytes()
        return samples.astype("<i2", copy=False).tobytes()


def _resampler(rate: int) -> Any:
    try:
        import soxr
    except ImportError:
        raise _missing("soxr", f"{rate} Hz audio") from None
    return soxr.ResampleStream(SAMPLE_RATE, rate, 1, dtype="float32", quality="HQ")


@cache
def _table(encoding: str) -> npt.NDArray[np.uint8]:
    """The G.711 byte of every 16-bit sample, indexed by the sample's bits."""
    try:
        import av
    except ImportError:
        raise _missing("av", f"{encoding} audio") from None
    samples = np.arange(65_536, dtype=np.uint16).view(np.int16)
    frame = av.AudioFrame.from_ndarray(samples[np.newaxis, :], format="s16", layout="mono")
    frame.sample_rate = 8_000
    encoder = av.CodecContext.create("pcm_mulaw" if encoding == "mulaw" else "pcm_alaw", "w")
    assert isinstance(encoder, av.AudioCodecContext)
    encoder.sample_rate, encoder.format, encoder.layout = 8_000, av.AudioFormat("s16"), "mono"
    encoded = b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])
    return np.frombuffer(encoded, np.uint8)


def _missing(library: str, what: str) -> InvalidOptions:
    return InvalidOptions(f'{what} needs {library}: pip install "orpheus_plugin[server]"')
