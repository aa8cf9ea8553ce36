"""The example agent with a real browser: blocks of its event loop, gaps in its sound, and the time
to silence.

    python -m benchmarks.pipecat_loop [--seconds 60] [--interruptions 50] [options of bot.py]

Chromium opens the page, types, and records what it receives over WebRTC; the agent runs in a
process of its own, with a heartbeat on its event loop, and records what it made and sent. A hole
is silence in the browser where the agent's audio had none. Needs Chromium and
`pip install "orpheus_plugin[test]"`.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.report import add_save_option, save
from orpheus_plugin.events import SAMPLE_RATE

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from tests.support.chromium import Page

TALK = (
    "Tell me a long story.",
    "How are you?",
    "Count to 12.",
    "What can you do?",
    "Say after me: the quick brown fox jumps over the lazy dog, and the dog does not mind it at"
    " all.",
    "Tell me a joke.",
)

QUIET_S = 0.7
"""From an interruption to the next thing that is said to the agent."""

STOLEN_MS = 20.0
"""Above this, in a second and in all cores, the hypervisor has stopped the machine: what it had to
do meanwhile it does at once."""


async def measure(
    seconds: float, interruptions: int, options: list[str]
) -> dict[str, dict[str, Any]]:
    """The figures by their names in the results."""
    from tests.pipecat.listening import connect, silence, watched_bot
    from tests.support.chromium import browse

    folder = Path(tempfile.mkdtemp(prefix="orpheus-pipecat-"))
    figures: dict[str, dict[str, Any]] = {}
    async with watched_bot(folder, *options) as url, browse(url) as page:
        await connect(page)
        await silence(page, 1.0, 60)
        if seconds:
            figures["pipecat_loop"] = await converse(page, folder, seconds)
        if interruptions:
            figures["pipecat_interrupt"] = await interrupt(page, folder, interruptions)
    return figures


async def converse(page: Page, folder: Path, seconds: float) -> dict[str, Any]:
    """Turn by turn, each to its end."""
    from tests.pipecat.hearing import holes, levels
    from tests.pipecat.listening import Record, say, silence
    from tests.support.chromium import AUDIBLE, RECORD_RATE

    replies = len(Record.read(folder).replies())
    counted = await page.receiver()
    heard: list[npt.NDArray[np.int16]] = []
    began = time.time()
    while time.time() - began < seconds:
        before = await page.position()
        await say(page, TALK[len(heard) % len(TALK)])
        await silence(page, 1.2, 60, before)
        heard.append(await page.heard(before))
    ended = time.time()
    counts = {name: n - counted.get(name, 0) for name, n in (await page.receiver()).items()}
    await asyncio.sleep(1.1)  # the agent writes down what its loop did once a second
    record = Record.read(folder)
    made = record.replies()[replies:]
    missing = [
        hole
        for there, here in zip(made, heard, strict=True)
        for hole in holes(here, RECORD_RATE, there, SAMPLE_RATE)
    ]
    spoken = sum(float((levels(sound, RECORD_RATE) > AUDIBLE).sum()) / 100 for sound in heard)
    beats, turns = record.between("loop", began, ended), record.between("turn", began, ended)
    worst = max(beats, key=lambda e: float(e["own_ms"]))
    undisturbed = [b for b in beats if b["stolen_ms"] < STOLEN_MS]
    return {
        "conversation_s": ended - began,
        "turns": len(heard),
        "underruns": sum(t["underruns"] for t in turns),
        "rtfx_p50": quantile([t["speed"] for t in turns if t["speed"]], 0.5),
        "engine_first_audio_p50_ms": quantile(
            [1e3 * t["ttfa_s"] for t in turns if t["ttfa_s"]], 0.5
        ),
        "speech_made_s": sum(len(there) for there in made) / SAMPLE_RATE,
        "speech_heard_s": spoken,
        "empty_20ms_frames": sum(int(hole / 0.02 + 0.01) for hole in missing),
        "holes_of_10ms_and_more": len(missing),
        "holes_s": sum(missing),
        "concealed_ms": 1e3 * counts["concealedSamples"] / RECORD_RATE,
        "loop_blocked_worst_ms": worst["own_ms"],
        "loop_blocked_worst_of_a_second_p50_ms": quantile([b["own_ms"] for b in beats], 0.5),
        "loop_blocked_worst_doing": worst["doing"],
        "seconds": len(beats),
        "seconds_without_steal": len(undisturbed),
        "loop_blocked_worst_ms_without_steal": max(
            (b["own_ms"] for b in undisturbed), default=float("nan")
        ),
        "loop_work_between_beats_worst_ms_without_steal": max(
            (b["work_ms"] for b in undisturbed), default=float("nan")
        ),
        "loop_work_between_beats_worst_ms": max(b["work_ms"] for b in beats),
        "loop_late_worst_ms_with_other_processes": max(b["worst_ms"] for b in beats),
        "agent_cpu": quantile([b["cpu"] for b in beats], 0.5),
    }


async def interrupt(page: Page, folder: Path, times: int) -> dict[str, Any]:
    """Interruptions a second into a story: the time to silence, from the frame on, and at the
    listener."""
    from tests.pipecat.hearing import last_audible_s, levels
    from tests.pipecat.listening import Record, say, speech
    from tests.support.chromium import AUDIBLE, RECORD_RATE

    asked: list[float] = []
    silent: list[float] = []
    counted = await page.receiver()
    for _ in range(times):
        before = await page.position()
        await say(page, "Tell me a long story.")
        await speech(page, 1.0, 30, before)
        asked.append(time.time())
        await say(page, "Stop.")
        await asyncio.sleep(QUIET_S)
        last_s = last_audible_s(await page.heard(before), RECORD_RATE)
        silent.append(await page.heard_at(before + int(last_s * RECORD_RATE) - 1))
    counts = {name: n - counted.get(name, 0) for name, n in (await page.receiver()).items()}
    await asyncio.sleep(1.1)
    record = Record.read(folder)
    loud = levels(record.sent.reshape(-1), SAMPLE_RATE) > AUDIBLE
    to_sent: list[float] = []
    to_silence: list[float] = []
    to_free: list[float] = []
    for begin, end, at in zip(asked, [*asked[1:], float("inf")], silent, strict=True):
        frame = record.between("interruption", begin - 0.05, end)[0]["at"]
        # The interruption is noticed somewhat after it was sent, and the next answer comes soon.
        sent = record.sent_at[loud & (record.sent_at < frame + QUIET_S - 0.1)]
        to_sent.append(1e3 * (float(sent[-1]) - frame))
        to_silence.append(1e3 * (at - frame))
        freed = [e["at"] for e in record.between("engine_free", frame, frame + 1)]
        to_free += [1e3 * (at - frame) for at in freed[:1]]
    emitted = counts["jitterBufferEmittedCount"]
    return {
        "interruptions": len(to_silence),
        "silent_after_ms": spread(to_silence),
        "last_sound_sent_after_ms": spread(to_sent),
        "browser_jitter_buffer_ms": 1e3 * counts["jitterBufferDelay"] / emitted,
        "browser_jitter_buffer_wanted_ms": 1e3 * counts["jitterBufferTargetDelay"] / emitted,
        "engine_free_after_ms": spread(to_free),
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
    add_save_option(parser)
    parser.add_argument("--seconds", type=float, default=60.0, help="of conversation; 0: none")
    parser.add_argument("--interruptions", type=int, default=50, help="0: none")
    args, options = parser.parse_known_args()
    figures = asyncio.run(measure(args.seconds, args.interruptions, options))
    for name, values in figures.items():
        for figure, value in values.items():
            print(f"{figure:42} {value}")
        values.pop("loop_blocked_worst_doing", None)  # of use only now
        save(name, values)


if __name__ == "__main__":
    main()
