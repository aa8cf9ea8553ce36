"""What callers of one server hear under an open load: ``python benchmarks/load.py``.

Turns arrive at random (Poisson) at a rate, whether earlier ones are through or not; their text
comes as from a language model, and each is listened to by a player that starts with the first
sample. A turn waits up to `--max-wait` seconds for its place. Per rate, as means over `--rounds`
with a 95 % interval:

* offered, admitted at once, admitted after waiting, refused;
* audible first sound: from the arrival to the first 10 ms louder than RMS 0.01 as the player plays
  them, p50, p95, p99;
* C50, C100, C200: the share of admitted turns whose longest gap is at most 50, 100, 200 ms;
* goodput: turns a second that were admitted and heard with no gap over 100 ms.

`benchmarks/plots.py` draws goodput and first sound against the rate. `--max-turns N` serves a fixed
limit for comparison; `--busy N` has N processes spin beside.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from benchmarks.report import add_save_option, save  # noqa: E402
from benchmarks.server_process import server_process  # noqa: E402
from orpheus_plugin.engine.playout import PlayoutClock  # noqa: E402
from orpheus_plugin.errors import AtCapacity  # noqa: E402
from orpheus_plugin.events import SAMPLE_RATE, AudioChunk  # noqa: E402
from orpheus_plugin.remote.engine import RemoteEngine  # noqa: E402
from orpheus_plugin.speech_engine import SpeechEngine  # noqa: E402
from orpheus_plugin.turn import Turn  # noqa: E402

SENTENCES = (
    "Thank you for calling, how can I help you today?",
    "I have found two flights that may suit you.",
    "The first one leaves in the morning, and the second one in the late afternoon.",
    "Could you please tell me which of them you would like to take?",
    "One moment, let me look that up for you.",
)
MEASURED_S = 8.0
"""A server on a processor is ready before it has measured how many turns it can speak."""
WORD_S = 0.02
"""Between two words of the text: a language model of fifty words a second."""

LOUD_RMS = 0.01
WINDOW = SAMPLE_RATE // 100
WAITED_S = 0.1


@dataclass
class Heard:
    """One turn, as its listener heard it. `first_s` is the first audible sound, None if there was
    none."""

    admitted: bool = False
    waited_s: float = 0.0
    first_s: float | None = None
    gap_s: float = 0.0


# ---- the client's process


async def listen(engine: SpeechEngine, text: str, max_wait_s: float) -> Heard:
    heard, clock, arrived = Heard(), PlayoutClock(), time.monotonic()
    async with engine.open_turn(max_wait_s=max_wait_s) as turn:
        helpers = [
            asyncio.create_task(_feed(turn, text)),
            asyncio.create_task(_note_place(turn, heard, arrived)),
        ]
        try:
            async for event in turn:
                if isinstance(event, AudioChunk):
                    heard.gap_s = max(heard.gap_s, clock.play(event.duration_s))
                    if heard.first_s is None and (at := first_sound(event.pcm)) is not None:
                        heard.first_s = clock.ends_at - event.duration_s + at - arrived
        except AtCapacity:
            pass
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
    return heard


async def _feed(turn: Turn, text: str) -> None:
    for word in text.split(" "):
        turn.push_text(word + " ")
        await asyncio.sleep(WORD_S)
    turn.end()


async def _note_place(turn: Turn, heard: Heard, arrived: float) -> None:
    await turn.admitted()
    heard.admitted = True
    heard.waited_s = time.monotonic() - arrived


def first_sound(pcm: bytes) -> float | None:
    """Seconds to the first 10 ms that can be heard."""
    samples = np.frombuffer(pcm, "<i2").astype(np.float64) / 32768
    whole = samples[: len(samples) // WINDOW * WINDOW].reshape(-1, WINDOW)
    loud = np.flatnonzero((whole**2).mean(axis=1) > LOUD_RMS**2)
    return float(loud[0]) * WINDOW / SAMPLE_RATE if loud.size else None


async def arrivals(
    engine: SpeechEngine, rate: float, seconds: float, seed: int, max_wait_s: float
) -> list[Heard]:
    """Turns at a rate for some seconds; returns what was heard of each when all have ended."""
    chance = random.Random(seed)
    turns: list[asyncio.Task[Heard]] = []
    until = time.monotonic() + seconds
    at = time.monotonic()
    while (at := at + chance.expovariate(rate)) < until:
        await asyncio.sleep(at - time.monotonic())
        text = " ".join(chance.sample(SENTENCES, chance.randint(1, 4)))
        turns.append(asyncio.create_task(listen(engine, text, max_wait_s)))
    return await asyncio.gather(*turns)


async def client(url: str, rate: float, seconds: float, seed: int, max_wait_s: float) -> None:
    engine = RemoteEngine(url)
    await engine.start()
    heard = await arrivals(engine, rate, seconds, seed, max_wait_s)
    await engine.aclose()
    print(json.dumps([asdict(turn) for turn in heard]), flush=True)


# ---- the rounds


def one_round(
    url: str, rate: float, seconds: float, seed: int, max_wait_s: float
) -> dict[str, float]:
    options = ["--rates", str(rate), "--seconds", str(seconds), "--max-wait", str(max_wait_s)]
    answer = subprocess.run(
        [sys.executable, __file__, "--client", url, "--seed", str(seed), *options],
        capture_output=True,
        text=True,
        check=True,
        timeout=seconds + 300,
    )
    return figures([Heard(**turn) for turn in json.loads(answer.stdout)], seconds)


def figures(heard: Sequence[Heard], seconds: float) -> dict[str, float]:
    """What the head of this file lists, of one round."""
    admitted = [turn for turn in heard if turn.admitted]
    waited = sum(turn.waited_s > WAITED_S for turn in admitted)
    first = sorted(turn.first_s for turn in admitted if turn.first_s is not None)

    def within(gap_s: float) -> float:
        return sum(turn.gap_s <= gap_s for turn in admitted) / max(1, len(admitted))

    return {
        "offered": len(heard) / seconds,
        "at_once": (len(admitted) - waited) / seconds,
        "waited": waited / seconds,
        "refused": (len(heard) - len(admitted)) / seconds,
        **{f"first_p{p}_ms": 1000 * _percentile(first, p) for p in (50, 95, 99)},
        **{f"c{ms}": within(ms / 1000) for ms in (50, 100, 200)},
        "goodput": within(0.1) * len(admitted) / seconds,
    }


def _percentile(values: Sequence[float], percent: int) -> float:
    return values[min(len(values) - 1, len(values) * percent // 100)] if values else math.nan


def summary(rounds: Sequence[dict[str, float]]) -> dict[str, list[float]]:
    """Mean and half the width of the 95 % interval (normal) of each figure."""
    found = {}
    for name in rounds[0]:
        values = [one[name] for one in rounds if not math.isnan(one[name])]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        mean = statistics.mean(values) if values else math.nan
        found[name] = [mean, 1.96 * spread / math.sqrt(max(1, len(values)))]
    return found


@contextlib.contextmanager
def spinning(count: int) -> Iterator[None]:
    """So many processes that use a core each."""
    spinners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    add_save_option(parser)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--max-turns", help="a fixed limit, in place of the measured one")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.1, 0.2, 0.4, 0.8, 1.6])
    parser.add_argument("--seconds", type=float, default=60.0, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max-wait", type=float, default=10.0, help="seconds a turn may wait")
    parser.add_argument("--busy", type=int, default=0, metavar="N", help="spin beside")
    parser.add_argument("--out", default="load", help="name of the file of results")
    parser.add_argument("--client", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("server", nargs="*", help="options of `orpheus-tts serve`, after --")
    args = parser.parse_args()
    if args.client:
        (rate,) = args.rates
        asyncio.run(client(args.client, rate, args.seconds, args.seed, args.max_wait))
        return
    options = ["--model", args.model, "--device", args.device, *args.server]
    if args.max_turns:
        options += ["--max-turns", args.max_turns]
    rows: list[dict[str, Any]] = []
    names = ("offered", "at_once", "waited", "refused", "goodput", "c50", "c100", "c200")
    firsts = ("first_p50_ms", "first_p95_ms", "first_p99_ms")
    print("  rate  " + "  ".join(f"{name:>12}" for name in (*names, *firsts)))
    with spinning(args.busy), server_process(*options) as server:
        if not args.max_turns:
            time.sleep(MEASURED_S)
        for rate in args.rates:
            rounds = [
                one_round(server.url, rate, args.seconds, seed, args.max_wait)
                for seed in range(args.rounds)
            ]
            rows.append({"rate": rate, **summary(rounds)})
            figures = "  ".join(f"{rows[-1][n][0]:12.2f}" for n in names)
            figures += "  " + "  ".join(f"{rows[-1][n][0]:12.0f}" for n in firsts)
            print(f"{rate:6.2f}  {figures}", flush=True)
    save(
        args.out,
        {"model": args.model, "seconds": args.seconds, "rounds": args.rounds, "rates": rows},
    )


if __name__ == "__main__":
    main()
