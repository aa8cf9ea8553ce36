"""What VllmGenerator costs over vLLM itself, and how fast an aborted request is freed:
`python benchmarks/vllm_engine.py`.

* ids/s of N requests at once through vLLM's AsyncLLM alone and through VllmGenerator, in turns on
  one engine, and the processor time this process spends on an id;
* the time from leaving a request to vLLM's engine process holding nothing of any request, over 100
  requests;
* the time from killing that process until the last of eight requests gets EngineDied, once.

On a machine without a GPU it runs the crafted test checkpoint with a cheap sampler (temperature
only), which makes vLLM's step short and so any cost around it large.

    python benchmarks/vllm_engine.py                      the crafted checkpoint
    python benchmarks/vllm_engine.py --model DIR          a model directory
    python benchmarks/vllm_engine.py --random-3b          Orpheus 3B's shape, random weights (a GPU)
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import sys
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.report import save  # noqa: E402
from benchmarks.vllm_models import Choice, arguments_of, options_for  # noqa: E402
from benchmarks.vllm_raw import Runs, medians, ratio, raw_ids, speed  # noqa: E402
from orpheus_plugin.errors import EngineDied  # noqa: E402
from orpheus_plugin.tokens.base import SamplingParams  # noqa: E402
from orpheus_plugin.tokens.vllm.generator import VllmGenerator  # noqa: E402


def quantile(values: list[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


class Bench:
    def __init__(self, generator: VllmGenerator, choice: Choice, sampling: SamplingParams) -> None:
        self.generator = generator
        self.prompt = choice.vocabulary.prompt("tara", "It is a fine day for a walk by the sea.")
        self.sampling = sampling
        self.stop = choice.vocabulary.end_of_speech
        self.number = 0

    def name(self) -> str:
        self.number += 1
        return f"bench-{self.number}"

    async def raw(self, interval: int) -> int:
        """Ids of one request to AsyncLLM, used as its documentation shows."""
        count = 0
        async for ids in raw_ids(
            self.generator.engine,
            self.prompt,
            self.sampling,
            stop=self.stop,
            request_id=self.name(),
            interval=interval,
        ):
            count += len(ids)
        return count

    async def ours(self) -> int:
        count = 0
        async for chunk in self.generator.generate(self.prompt, self.sampling, self.name()):
            count += len(chunk.ids)
        return count

    async def compare(self, streams: int, rounds: int) -> dict[str, Any]:
        runs = {"raw": lambda: self.raw(1), "raw_by_7": lambda: self.raw(7), "ours": self.ours}
        found: dict[str, Runs] = {name: [] for name in runs}
        for number in range(rounds + 1):
            for name, run in runs.items():
                result = await speed(run, streams)
                if number:  # the first round warms up
                    found[name].append(result)
        summary = medians(found)
        summary["ours_to_raw"] = ratio(found["ours"], found["raw"])
        return summary

    async def cancels(self, times: int, others: int) -> dict[str, float]:
        """Milliseconds from leaving `1 + others` requests to an engine that holds nothing."""
        taken = []
        for _ in range(times):
            streams = [
                self.generator.generate(self.prompt, self.sampling, self.name())
                for _ in range(1 + others)
            ]
            await asyncio.gather(*(anext(stream) for stream in streams))
            began = time.perf_counter()
            await asyncio.gather(*(stream.aclose() for stream in streams))
            # True only when no request holds any of the cache, told by the engine process itself.
            while not await self.generator.engine.reset_prefix_cache():
                pass
            taken.append(1e3 * (time.perf_counter() - began))
        return {
            "p50_ms": quantile(taken, 0.5),
            "p99_ms": quantile(taken, 0.99),
            "max_ms": max(taken),
        }

    async def death_ms(self, requests: int = 8) -> float:
        """Milliseconds from killing vLLM's engine process to the end of the last request. The
        engine is dead then."""

        async def run(begun: asyncio.Event) -> float:
            with contextlib.suppress(EngineDied):
                async for _ in self.generator.generate(self.prompt, self.sampling, self.name()):
                    begun.set()
                raise AssertionError("it ended before the engine did")
            return time.perf_counter()

        begun = [asyncio.Event() for _ in range(requests)]
        tasks = [asyncio.create_task(run(event)) for event in begun]
        await asyncio.gather(*(event.wait() for event in begun))
        (core,) = (c for c in multiprocessing.active_children() if c.name.startswith("EngineCore"))
        killed = time.perf_counter()
        core.kill()
        return 1e3 * (max(await asyncio.gather(*tasks)) - killed)


async def first_id_ms(bench: Bench, times: int = 30) -> dict[str, float]:
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        async with aclosing(
            bench.generator.generate(bench.prompt, bench.sampling, bench.name())
        ) as chunks:
            await anext(chunks)
            taken.append(1e3 * (time.perf_counter() - began))
    return {"p50_ms": quantile(taken, 0.5), "p95_ms": quantile(taken, 0.95)}


async def main() -> None:
    parser = arguments_of(__doc__, ids=280, rounds=7)
    parser.add_argument("--cancels", type=int, default=100)
    args = parser.parse_args()
    choice = Choice.of(args)
    sampling = (
        SamplingParams(max_tokens=args.ids)
        if choice.gpu
        else SamplingParams(top_p=1.0, repetition_penalty=1.0, max_tokens=args.ids)
    )
    generator = VllmGenerator(
        choice.directory,
        choice.vocabulary,
        options_for(choice, max(args.streams), quantization=args.quantization),
    )
    began = time.perf_counter()
    await generator.start()
    figures: dict[str, Any] = {
        "model": choice.name,
        "sampling": str(sampling),
        "start_s": time.perf_counter() - began,
        "speed": {},
    }
    bench = Bench(generator, choice, sampling)
    print(
        "| streams | AsyncLLM ids/s | by 7 | VllmGenerator | ratio | CPU us an id: alone, by 7,"
        " ours |"
    )
    print("|---|---|---|---|---|---|")
    for streams in args.streams:
        row = await bench.compare(streams, args.rounds)
        figures["speed"][streams] = row
        raw, by_7, ours = row["raw"], row["raw_by_7"], row["ours"]
        print(
            f"| {streams} | {raw['ids_per_s']:.0f} | {by_7['ids_per_s']:.0f} |"
            f" {ours['ids_per_s']:.0f} | {row['ours_to_raw']:.3f} | {raw['cpu_us_per_id']:.0f},"
            f" {by_7['cpu_us_per_id']:.0f}, {ours['cpu_us_per_id']:.0f} |",
            flush=True,
        )
    figures["first_id"] = await first_id_ms(bench)
    figures["cancel_alone"] = await bench.cancels(args.cancels, 0)
    figures["cancel_of_8"] = await bench.cancels(args.cancels, 7)
    for name in ("first_id", "cancel_alone", "cancel_of_8"):
        print(name, {key: round(value, 2) for key, value in figures[name].items()})
    figures["death_ms"] = await bench.death_ms()
    print("death_ms", round(figures["death_ms"], 1))
    await generator.aclose()
    save(args.out or f"vllm_engine{'_gpu' if choice.gpu else ''}", figures)


if __name__ == "__main__":
    asyncio.run(main())
