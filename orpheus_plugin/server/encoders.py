"""Encoders of 24 kHz s16le audio for the formats of `/v1/audio/speech`, as it comes: FFmpeg's,
through PyAV.

A piece costs milliseconds, so callers run them off the event loop, with `OffLoop`. FFmpeg's objects
refer to each other, and their memory is not Python's: an encoder is closed when its stream ends,
not by the garbage collector.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from orpheus_plugin.engine.delivery import Tempo
from orpheus_plugin.engine.trim import to_pcm16
from orpheus_plugin.errors import InvalidOptions
from orpheus_plugin.events import SAMPLE_RATE

CONTENT_TYPES = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}


class Encoder(Protocol):
    """The encoder of one stream. Its outputs, joined, are the whole file. `close` frees its memory,
    finished or not."""

    def push(self, pcm: bytes) -> bytes: ...
    def finish(self) -> bytes: ...
    def close(self) -> None: ...


class OffLoop:
    """An encoder for use on an event loop: its work runs on other threads, one call at a time.

    `close` never waits: if a call is still in flight, because its task was cancelled, it runs after
    that call.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._last: Future[bytes] | None = None

    async def push(self, pcm: bytes) -> bytes:
        return await self._run(self._encoder.push, pcm)

    async def finish(self) -> bytes:
        return await self._run(self._encoder.finish)

    def close(self) -> None:
        if self._last is None:
            self._encoder.close()
        else:
            self._last.add_done_callback(lambda _: self._encoder.close())

    async def _run(self, work: Callable[..., bytes], *args: bytes) -> bytes:
        self._last = _threads.submit(work, *args)
        return await asyncio.wrap_future(self._last)


_threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="orpheus-encode")


def make_encoder(name: str) -> Encoder:
    """Raises InvalidOptions for a format that is unknown, or whose library is missing."""
    if name == "pcm":
        return _Plain(b"")
    if name == "wav":
        return _Plain(_wav_header())
    if name not in _RECIPES:
        raise InvalidOptions(
            f"response_format must be one of {', '.join(CONTENT_TYPES)}, not {name!r}"
        )
    return _AvEncoder(_RECIPES[name])


class WholeFile:
    """An encoder that returns everything at the end, so that a WAV file has its length in its
    header."""

    def __init__(self, name: str, speed: float = 1.0) -> None:
        self._wav = name == "wav"
        inner = make_encoder("pcm" if self._wav else name)
        self._encoder = inner if speed == 1 else WithTempo(speed, inner)
        self._data = bytearray()

    def push(self, pcm: bytes) -> bytes:
        self._data += self._encoder.push(pcm)
        return b""

    def finish(self) -> bytes:
        self._data += self._encoder.finish()
        head = _wav_header(len(self._data)) if self._wav else b""
        return head + bytes(self._data)

    def close(self) -> None:
        self._encoder.close()


def warm_up() -> None:
    """Load the library, which takes a third of a second, so that a client's first request does not
    wait for it."""
    with contextlib.suppress(InvalidOptions):
        for name in _RECIPES:
            encoder = WithTempo(2.0, make_encoder(name))
            encoder.finish()
            encoder.close()


def _wav_header(size: int | None = None) -> bytes:
    """The header of so many bytes of audio, or of a stream of unknown length, as ffmpeg and OpenAI
    write it."""
    width = 2
    whole, data = (0xFFFFFFFF, 0xFFFFFFFF) if size is None else (36 + size, size)
    return (
        struct.pack("<4sI4s", b"RIFF", whole, b"WAVE")
        + struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, SAMPLE_RATE, SAMPLE_RATE * width, width, 16)
        + struct.pack("<4sI", b"data", data)
    )


class _Plain:
    def __init__(self, header: bytes) -> None:
        self._header = header

    def push(self, pcm: bytes) -> bytes:
        header, self._header = self._header, b""
        return header + pcm

    def finish(self) -> bytes:
        return self.push(b"")

    def close(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class _Recipe:
    container: str
    codec: str
    bit_rate: int | None
    options: dict[str, str]


_RECIPES = {
    # Options with which nothing is written at the start of the file afterwards, and nothing waits
    # for a full buffer.
    "mp3": _Recipe("mp3", "libmp3lame", 64_000, {"write_xing": "0", "id3v2_version": "0"}),
    "opus": _Recipe("ogg", "libopus", 48_000, {"page_duration": "100000"}),
    "aac": _Recipe("adts", "aac", 64_000, {}),
    "flac": _Recipe("flac", "flac", None, {}),
}


class _Sink:
    """A file that can only be written to."""

    def __init__(self) -> None:
        self._data = bytearray()

    def write(self, data: bytes) -> int:
        self._data += data
        return len(data)

    def take(self) -> bytes:
        data = bytes(self._data)
        self._data.clear()
        return data


class _AvEncoder:
    def __init__(self, recipe: _Recipe) -> None:
        av = _import_av(f"{recipe.container} audio")
        self._av = av
        self._sink = _Sink()
        self._container: Any = av.open(
            self._sink,
            "w",
            format=recipe.container,
            options={**recipe.options, "flush_packets": "1"},
            buffer_size=4_096,
        )
        self._stream: Any = self._container.add_stream(recipe.codec, rate=SAMPLE_RATE)
        self._stream.layout = "mono"
        if recipe.bit_rate is not None:
            self._stream.bit_rate = recipe.bit_rate
        self._resampler: Any = av.AudioResampler(
            format=self._stream.codec_context.format, layout="mono", rate=SAMPLE_RATE
        )
        self._samples = 0

    def push(self, pcm: bytes) -> bytes:
        if pcm:
            for frame in self._resampler.resample(_frame(self._av, pcm, self._samples)):
                self._container.mux(self._stream.encode(frame))
            self._samples += len(pcm) // 2
        return self._sink.take()

    def finish(self) -> bytes:
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._sink.take()

    def close(self) -> None:
        self._container.close()
        self._container = self._stream = self._resampler = None


class WithTempo:
    """Speech faster or slower at the same pitch, then encoded."""

    def __init__(self, speed: float, encoder: Encoder) -> None:
        _import_av(f"speed {speed:g}")
        self._encoder = encoder
        self._tempo = Tempo(speed)

    def push(self, pcm: bytes) -> bytes:
        samples = np.frombuffer(pcm, "<i2").astype(np.float32) / np.float32(32_768)
        return self._encoder.push(to_pcm16(self._tempo.push(samples)))

    def finish(self) -> bytes:
        tail = self._encoder.push(to_pcm16(self._tempo.finish()))
        return tail + self._encoder.finish()

    def close(self) -> None:
        self._tempo.close()
        self._encoder.close()


def _frame(av: Any, pcm: bytes, position: int) -> Any:
    samples = np.frombuffer(pcm, "<i2").astype(np.int16, copy=False)
    frame = av.AudioFrame.from_ndarray(samples[np.newaxis, :], format="s16", layout="mono")
    frame.sample_rate = SAMPLE_RATE
    frame.pts = position
    return frame


def _import_av(what: str) -> Any:
    try:
        import av
        import av.filter
    except ImportError:
        raise InvalidOptions(
            f'{what} needs av: pip install "orpheus_plugin[server]"; pcm and wav do not'
        ) from None
    return av
