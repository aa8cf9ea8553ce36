"""The example agent under a real browser: is its event loop ever blocked, does sound ever break, how soon is it silent.

    python -m benchmarks.pipecat_loop [--seconds 60] [--interruptions 50] [--model NAME]

Chromium opens the page, types, and records what it receives over WebRTC; the agent runs in a process of its own, with
a heartbeat on its event loop. Needs Chromium and `pip install "orpheus_plugin[test]"`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import json
import os
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import AsyncIterator
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).parents[1]
BEAT_S = 0.002
SHOW_S = 0.015
"""A beat later than this is put down with what the loop was doing."""

TALK = (
    "Tell me a long story.",
    "How are you?",
    "Count to 12.",
    "What can you do?",
    "Say after me: the quick brown fox jumps over the lazy dog, and the dog does not mind it at all.",
    "Tell me a joke.",
)


# ---- in the agent's process


class Watch:
    """Notes events as lines of JSON, and how late the event loop runs a beat every 2 ms.

    What other processes took of the cores is counted apart: on a busy machine it is most of it. So is the loop's own
    work, in seconds of the processor: no other process changes that.
    """

    def __init__(self, path: Path) -> None:
        self.file = path.open("a", buffering=1)
        self.beat = time.monotonic()
        self.shown = ""
        self.main = threading.main_thread().ident or 0

    def note(self, event: str, **facts: Any) -> None:
        print(json.dumps({"event": event, "at": time.time(), **facts}), file=self.file)

    async def run(self) -> None:
        threading.Thread(target=self.look, daemon=True).start()
        late: list[float] = []
        own: list[float] = []
        work: list[float] = []
        cpu, began, waited = time.process_time(), time.monotonic(), queued_s()
        while True:
            due, worked = time.monotonic() + BEAT_S, time.thread_time()
            await asyncio.sleep(BEAT_S)
            self.beat, waited_before, waited = time.monotonic(), waited, queued_s()
            late.append(self.beat - due)
            own.append(late[-1] - (waited - waited_before))
            work.append(time.thread_time() - worked)
            if self.beat - began > 1.0:
                used = (time.process_time() - cpu) / (self.beat - began)
                self.note(
                    "loop",
                    worst_ms=1e3 * max(late),
                    own_ms=1e3 * max(own),
                    work_ms=1e3 * max(work),
                    cpu=used,
                    doing=self.shown,
                )
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


def queued_s() -> float:
    """How long this thread has been ready to run while other processes had the cores (Linux)."""
    try:
        with open("/proc/thread-self/schedstat", "rb") as file:
            return int(file.read().split()[1]) / 1e9
    except OSError:
        return 0.0


def serve(log: Path, port: int, model: str | None) -> None:
    """The example as it is, watched."""
    sys.path.insert(0, str(ROOT / "agent_examples"))
    from pipecat.frames.frames import Frame, InterruptionFrame
    from pipecat.processors.frame_processor import FrameDirection

    from orpheus_plugin.pipecat import OrpheusTTS
    from orpheus_plugin.turn import Turn, TurnStats

    example: Any = importlib.import_module("bot")
    watch = Watch(log)
    process_frame, cancel = OrpheusTTS.process_frame, Turn.cancel
    run_bot, make_tts = example.run_bot, example.make_tts

    async def watched_frame(self: OrpheusTTS, frame: Frame, direction: FrameDirection) -> None:
        if isinstance(frame, InterruptionFrame):
            watch.note("interruption")
        await process_frame(self, frame, direction)

    async def watched_cancel(self: Turn) -> None:
        await cancel(self)
        watch.note("engine_free")

    def watched_tts(args: argparse.Namespace) -> OrpheusTTS:
        tts: OrpheusTTS = make_tts(args)

        async def note(service: OrpheusTTS, context_id: str, stats: TurnStats) -> None:
            watch.note(
                "turn",
                underruns=stats.underruns,
                ttfa_s=stats.ttfa_s,
                audio_s=stats.audio_s,
                speed=stats.real_time_factor,
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
    Turn.cancel = watched_cancel  # type: ignore[method-assign]
    example.run_bot, example.make_tts = watched_bot, watched_tts
    setattr(sys.modules["__main__"], "bot", example.bot)  # noqa: B010 - where the runner looks
    sys.argv = [sys.argv[0], "--port", str(port), *(["--model", model] if model else [])]
    sys.exit(example.main())


# ---- the listener


@contextlib.asynccontextmanager
async def agent(model: str | None) -> AsyncIterator[tuple[str, Path]]:
    import aiohttp

    from tests.pipecat.conversations import end_servers

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="orpheus-pipecat-"))
    log, output = folder / "events", folder / "output"
    command = [
        sys.executable,
        "-m",
        "benchmarks.pipecat_loop",
        "--serve",
        str(log),
        "--port",
        str(port),
    ]
    with output.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *command,
            *(["--model", model] if model else []),
            stdout=out,
            stderr=out,
            cwd=ROOT,
            env={**os.environ, "ORPHEUS_STATE_DIR": str(folder)},
        )
    url = f"http://localhost:{port}/"
    try:
        async with aiohttp.ClientSession() as session:
            while process.returncode is None:
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(url):
                        break
                await asyncio.sleep(0.2)
        if process.returncode is not None:
            raise RuntimeError(f"the agent did not start; see {output}")
        yield url, log
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), 10)
        if process.returncode is None:
            process.kill()
        end_servers(folder)


def events(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text("utf-8").splitlines()]


async def measure(seconds: float, interruptions: int, model: str | None) -> dict[str, Any]:
    from tests.pipecat.chromium import RECORD_RATE, browse
    from tests.pipecat.hearing import empty_frames, last_audible_s, levels
    from tests.pipecat.test_browser import connect, say, silence

    async with agent(model) as (url, log), browse(url) as page:
        await connect(page)
        await silence(page, 1.0, 60)
        # A conversation.
        start, began = await page.position(), time.time()
        turn = holes = 0
        while time.time() - began < seconds:
            before = await page.position()
            await say(page, TALK[turn % len(TALK)])
            turn += 1
            async with asyncio.timeout(60):
                while True:
                    heard = await page.heard(before)
                    last = last_audible_s(heard, RECORD_RATE)
                    if last and len(heard) / RECORD_RATE - last > 1.2:
                        break
                    await asyncio.sleep(0.3)
            holes += empty_frames(heard, RECORD_RATE)
        ended = time.time()
        heard = await page.heard(start)
        spoken = float((levels(heard, RECORD_RATE) > 0.004).mean()) * len(heard) / RECORD_RATE
        beats = [e for e in events(log) if e["event"] == "loop" and began < e["at"] < ended]
        talked = [e for e in events(log) if e["event"] == "turn" and began < e["at"] < ended]
        worst = max(beats, key=lambda e: float(e["own_ms"]))
        # Interruptions.
        to_silence: list[float] = []
        to_free: list[float] = []
        for _ in range(interruptions):
            before = await page.position()
            await say(page, "Tell me a long story.")
            async with asyncio.timeout(30):
                while last_audible_s(await page.heard(before), RECORD_RATE) < 1.0:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            asked = time.time()
            await say(page, "Stop.")
            await asyncio.sleep(1.2)
            noted = [e for e in events(log) if e["at"] > asked - 0.05]
            frame = min(e["at"] for e in noted if e["event"] == "interruption")
            heard = await page.heard(before)
            silent = await page.heard_at(
                before + int(last_audible_s(heard, RECORD_RATE) * RECORD_RATE)
            )
            to_silence.append(1e3 * (silent - frame))
            to_free += [1e3 * (e["at"] - frame) for e in noted if e["event"] == "engine_free"][-1:]
    return {
        "conversation_s": ended - began,
        "turns": turn,
        "underruns": sum(t["underruns"] for t in talked),
        "real_time_factor_p50": quantile([t["speed"] for t in talked if t["speed"]], 0.5),
        "engine_first_audio_p50_ms": quantile(
            [1e3 * t["ttfa_s"] for t in talked if t["ttfa_s"]], 0.5
        ),
        "speech_heard_s": spoken,
        "empty_20ms_frames": holes,
        "loop_blocked_worst_ms": worst["own_ms"],
        "loop_blocked_worst_of_a_second_p50_ms": quantile([b["own_ms"] for b in beats], 0.5),
        "loop_blocked_worst_doing": worst["doing"],
        "loop_work_between_beats_worst_ms": max(b["work_ms"] for b in beats),
        "loop_late_worst_ms_with_other_processes": max(b["worst_ms"] for b in beats),
        "agent_cpu": quantile([b["cpu"] for b in beats], 0.5),
        "interruptions": len(to_silence),
        "silent_after_ms": spread(to_silence),
        "engine_free_after_ms": spread(to_free),
        "load": os.getloadavg(),
    }


def quantile(values: list[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else float("nan")


def spread(values: list[float]) -> dict[str, float]:
    return {
        "p50": quantile(values, 0.5),
        "p90": quantile(values, 0.9),
        "p99": quantile(values, 0.99),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="of conversation")
    parser.add_argument("--interruptions", type=int, default=50)
    parser.add_argument("--model")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve is not None:
        serve(args.serve, args.port, args.model)
        return
    from benchmarks.report import save

    figures = asyncio.run(measure(args.seconds, args.interruptions, args.model))
    for name, value in figures.items():
        print(f"{name:38} {value}")
    figures.pop("loop_blocked_worst_doing")  # for who looks at it now
    save("pipecat_loop", figures)


if __name__ == "__main__":
    main()
