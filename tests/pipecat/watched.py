"""The example agent in a process of its own, with a record of everything that leaves it.

    python -m tests.pipecat.watched FOLDER [options of bot.py]

FOLDER gets `events` (lines of JSON), and sound, mono s16le at 24 kHz: `made` is what the service
pushed, `sent` what the WebRTC track gave away, with `sent.at`, the time of each 10 ms of it as a
double. Used by the browser test and by benchmarks/pipecat_loop.py.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import struct
import sys
import threading
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).parents[2]
BEAT_S = 0.002
SHOW_S = 0.015
"""A beat later than this is recorded with what the loop was doing."""


class Watch:
    """Notes events as lines of JSON, and how late the event loop runs a beat every 2 ms.

    What other processes took of the cores is counted apart: on a busy machine it is most of it. So
    is the loop's own work, in seconds of the processor: no other process changes that.
    """

    def __init__(self, folder: Path) -> None:
        self.file = (folder / "events").open("a", buffering=1)
        self.made = (folder / "made").open("ab", buffering=0)
        self.sent = (folder / "sent").open("ab")
        self.sent_at = (folder / "sent.at").open("ab")
        self.beat = time.monotonic()
        self.shown = ""
        self.main = threading.main_thread().ident or 0

    def note(self, event: str, **facts: Any) -> None:
        print(json.dumps({"event": event, "at": time.time(), **facts}), file=self.file)

    def take(self, pcm: bytes) -> None:
        """10 ms went to WebRTC."""
        self.sent.write(pcm)
        self.sent_at.write(struct.pack("d", time.time()))

    async def run(self) -> None:
        threading.Thread(target=self.look, daemon=True).start()
        late: list[float] = []
        own: list[float] = []
        work: list[float] = []
        queue = Queue()
        cpu, began, waited = time.process_time(), time.monotonic(), queue.waited_s()
        stolen = stolen_s()
        while True:
            due, worked = time.monotonic() + BEAT_S, time.thread_time()
            await asyncio.sleep(BEAT_S)
            self.beat, waited_before, waited = time.monotonic(), waited, queue.waited_s()
            late.append(self.beat - due)
            own.append(late[-1] - (waited - waited_before))
            work.append(time.thread_time() - worked)
            if self.beat - began > 1.0:
                used = (time.process_time() - cpu) / (self.beat - began)
                stolen_before, stolen = stolen, stolen_s()
                self.note(
                    "loop",
                    worst_ms=1e3 * max(late),
                    own_ms=1e3 * max(own),
                    work_ms=1e3 * max(work),
                    cpu=used,
                    stolen_ms=1e3 * (stolen - stolen_before),
                    doing=self.shown,
                )
                self.sent.flush()
                self.sent_at.flush()
                cpu, began, self.shown = time.process_time(), self.beat, ""
                late, own, work = [], [], []

    def look(self) -> None:
        """On a thread: what the loop does while a beat is overdue."""
        while True:
            time.sleep(0.004)
            if time.monotonic() - self.beat > SHOW_S + BEAT_S:
                frame: FrameType | None = sys._current_frames().get(self.main)
                if frame is not None:
                    self.shown = "".join(traceback.format_stack(frame)[-4:])


class Queue:
    """How long the thread that made it has been ready to run while other processes had the cores
    (Linux).

    The file stays open: opening it for each beat took a quarter of the time that the loop was busy.
    """

    def __init__(self) -> None:
        try:
            self.file = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
        except OSError:
            self.file = -1

    def waited_s(self) -> float:
        return 0.0 if self.file < 0 else int(os.pread(self.file, 100, 0).split()[1]) / 1e9


def stolen_s() -> float:
    """For how long the cores of a virtual machine have been taken from it, all cores together
    (Linux; 0 elsewhere)."""
    try:
        with Path("/proc/stat").open() as file:
            return int(file.readline().split()[8]) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return 0.0


def serve(folder: Path, options: list[str]) -> int:
    sys.path.insert(0, str(ROOT / "agent_examples"))
    from pipecat.frames.frames import Frame, InterruptionFrame, TTSAudioRawFrame
    from pipecat.processors.frame_processor import FrameDirection
    from pipecat.transports.base_output import BaseOutputTransport
    from pipecat.transports.smallwebrtc.transport import RawAudioTrack

    from orpheus_plugin.events import TurnStats
    from orpheus_plugin.pipecat import OrpheusTTS
    from orpheus_plugin.turn import Turn

    example: Any = importlib.import_module("bot")
    watch = Watch(folder)
    process_frame, push_frame, cancel = (
        OrpheusTTS.process_frame,
        OrpheusTTS.push_frame,
        Turn.cancel,
    )
    sender: Any = BaseOutputTransport.MediaSender
    drop, recv = sender.handle_interruptions, RawAudioTrack.recv
    run_bot, make_tts = example.run_bot, example.make_tts
    made: dict[str, Any] = {"context": "", "samples": 0}

    async def watched_frame(self: OrpheusTTS, frame: Frame, direction: FrameDirection) -> None:
        if isinstance(frame, InterruptionFrame):
            watch.note("interruption")
        await process_frame(self, frame, direction)

    async def watched_push(
        self: OrpheusTTS, frame: Frame, direction: FrameDirection = FrameDirection.DOWNSTREAM
    ) -> None:
        if isinstance(frame, TTSAudioRawFrame):
            if made["context"] != frame.context_id:
                watch.note("speech", context=frame.context_id, position=made["samples"])
            made["context"] = frame.context_id
            made["samples"] += len(frame.audio) // 2
            watch.made.write(frame.audio)
        await push_frame(self, frame, direction)

    async def watched_drop(self: Any, frame: InterruptionFrame) -> None:
        await drop(self, frame)
        watch.note("transport silenced")

    async def watched_cancel(self: Turn) -> None:
        await cancel(self)
        watch.note("engine_free")

    async def watched_recv(self: RawAudioTrack) -> Any:
        frame = await recv(self)
        watch.take(frame.to_ndarray().tobytes())
        return frame

    def watched_tts(args: argparse.Namespace) -> OrpheusTTS:
        tts: OrpheusTTS = make_tts(args)

        async def note(service: OrpheusTTS, context_id: str, stats: TurnStats) -> None:
            watch.note(
                "turn",
                context=context_id,
                underruns=stats.underruns,
                ttfa_s=stats.ttfa_s,
                audio_s=stats.audio_s,
                speed=stats.rtfx,
            )

        tts.add_event_handler("on_turn_stats", note)
        return tts

    async def watched_bot(*args: Any) -> None:
        beating = asyncio.create_task(watch.run())
        try:
            await run_bot(*args)
        finally:
            beating.cancel()

    OrpheusTTS.process_frame = watched_frame  # type: ignore[method-assign]
    OrpheusTTS.push_frame = watched_push  # type: ignore[method-assign]
    Turn.cancel = watched_cancel  # type: ignore[method-assign]
    sender.handle_interruptions = watched_drop
    RawAudioTrack.recv = watched_recv  # type: ignore[method-assign]
    example.run_bot, example.make_tts = watched_bot, watched_tts
    setattr(sys.modules["__main__"], "bot", example.bot)  # noqa: B010 - where the runner looks
    sys.argv = [sys.argv[0], *options]
    return int(example.main())


if __name__ == "__main__":
    sys.exit(serve(Path(sys.argv[1]), sys.argv[2:]))
