"""A Pipecat transport without a listener: it writes the bot's speech into a WAV file. For headless
use and tests."""

from __future__ import annotations

import asyncio
import time
import wave
from pathlib import Path

from pipecat.frames.frames import Frame, OutputAudioRawFrame, StartFrame
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.transports.base_transport import BaseTransport, TransportParams


class WavTransport(BaseTransport):
    """Writes the bot's speech to a file; it has no input.

    Events: `on_client_connected(transport, client)` when the pipeline has started, so that a bot
    for callers runs unchanged; `client` is the path.

    Args:
        path: the file, mono s16le at the pipeline's output rate.
        realtime: take audio at the speed at which it plays; else as fast as it comes. An
            interruption then drops audio that has not played, so that the file has what a listener
            would have heard.
    """

    def __init__(self, path: str | Path, *, realtime: bool = False) -> None:
        super().__init__()
        self.path = Path(path)
        self.realtime = realtime
        self._input_end = _NoInput()
        self._output_end = _WavOutput(self)
        self._register_event_handler("on_client_connected")
        self._register_event_handler("on_client_disconnected")

    def input(self) -> FrameProcessor:
        return self._input_end

    def output(self) -> FrameProcessor:
        return self._output_end

    async def connected(self) -> None:
        await self._call_event_handler("on_client_connected", self.path)


class _NoInput(FrameProcessor):
    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        await self.push_frame(frame, direction)


class _WavOutput(BaseOutputTransport):
    def __init__(self, transport: WavTransport) -> None:
        super().__init__(TransportParams(audio_out_enabled=True, audio_out_end_silence_secs=0))
        self._wav_transport = transport
        self._file: wave.Wave_write | None = None
        self._played_until = 0.0

    async def start(self, frame: StartFrame) -> None:
        await super().start(frame)
        self._file = wave.open(str(self._wav_transport.path), "wb")  # noqa: SIM115 - closed in cleanup
        self._file.setnchannels(1)
        self._file.setsampwidth(2)
        self._file.setframerate(self.sample_rate)
        await self.set_transport_ready(frame)
        await self._wav_transport.connected()

    async def write_audio_frame(self, frame: OutputAudioRawFrame) -> bool:
        if self._file is None:
            return False
        self._file.writeframes(frame.audio)
        if self._wav_transport.realtime:
            now = time.monotonic()
            self._played_until = max(self._played_until, now) + frame.num_frames / frame.sample_rate
            await asyncio.sleep(self._played_until - now)
        return True

    async def cleanup(self) -> None:
        await super().cleanup()
        if self._file is not None:
            self._file.close()
            self._file = None
