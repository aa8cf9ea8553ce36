"""The output of `orpheus-tts say`: a WAV file that is valid at every moment, or the sound card."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any, Protocol

from orpheus_plugin.errors import InvalidOptions, OrpheusError
from orpheus_plugin.events import SAMPLE_RATE


class Sink(Protocol):
    """Takes mono s16le at 24 kHz."""

    def write(self, pcm: bytes) -> None: ...
    def close(self) -> None: ...


class WavFile:
    """Writes a WAV file as audio comes. Its header is updated with each write, so an unfinished
    file plays.

    A path that cannot be written is refused at once. An existing file stays unchanged until there
    is audio.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: wave.Wave_write | None = None
        try:
            self._new = not path.exists()
            self._raw = path.open("r+b" if path.is_file() else "wb")
        except OSError as error:
            raise InvalidOptions(f"cannot write {path}: {error.strerror or error}") from error

    def write(self, pcm: bytes) -> None:
        if self._file is None:
            self._file = self._begin()
        self._file.writeframes(pcm)

    def _begin(self) -> wave.Wave_write:
        if self._path.is_file():  # not a pipe or device
            self._raw.truncate(0)
        file = wave.open(self._raw, "wb")  # noqa: SIM115 - closed by close()
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        return file

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._raw.close()
        if self._file is None and self._new:
            self._path.unlink(missing_ok=True)


class SoundCard:
    """Plays on the default output. Raises OrpheusError with an alternative if there is none."""

    def __init__(self) -> None:
        try:
            import sounddevice

            self._stream: Any = sounddevice.RawOutputStream(
                samplerate=SAMPLE_RATE, channels=1, dtype="int16"
            )
            self._stream.start()
        except ImportError as error:
            raise OrpheusError(
                "playing needs the sounddevice package (pip install 'orpheus_plugin[play]');"
                " or write a file with -o FILE.wav"
            ) from error
        except (
            Exception
        ) as error:  # PortAudio's own error type, or OSError where its library is missing
            raise OrpheusError(
                f"no sound card to play on ({error}); write a file with -o FILE.wav"
            ) from error

    def write(self, pcm: bytes) -> None:
        self._stream.write(pcm)

    def close(self) -> None:
        self._stream.stop()
        self._stream.close()
