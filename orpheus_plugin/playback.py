"""Where `orpheus-tts say` puts its audio: a WAV file that is valid at every moment, or the sound card."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any, Protocol

from orpheus_plugin.errors import InvalidOptions, OrpheusError
from orpheus_plugin.turn import SAMPLE_RATE


class Sink(Protocol):
    """Takes mono s16le at 24 kHz."""

    def write(self, pcm: bytes) -> None: ...
    def close(self) -> None: ...


class WavFile:
    """Writes a WAV file as audio comes; its header is kept true, so a broken-off file still plays."""

    def __init__(self, path: Path) -> None:
        try:
            self._raw = path.open("wb")
        except OSError as error:
            raise InvalidOptions(f"cannot write {path}: {error.strerror or error}") from error
        self._file = wave.open(self._raw, "wb")  # noqa: SIM115 - closed by close()
        self._file.setnchannels(1)
        self._file.setsampwidth(2)
        self._file.setframerate(SAMPLE_RATE)

    def write(self, pcm: bytes) -> None:
        self._file.writeframes(pcm)

    def close(self) -> None:
        self._file.close()
        self._raw.close()


class SoundCard:
    """Plays on the default output. Raises OrpheusError where there is none, saying what to do instead."""

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
