"""What LoRA adapters cost: `python benchmarks/adapters.py` (or ``--engine vllm --counts 0,1,4,8``).

A batch of requests runs to the same length, once without adapters and then with 1, 4, 8 of them,
assigned in turn. For each number it prints

* ids a second of the whole batch, the median of some rounds, and the CPU time an id costs this
  process and its children;
* seconds to start: load the model, the adapters, and draw a first id;
* resident memory of this process and its children, in MiB.

The engine without adapters and those with them run one after the other, each in a process of its
own, so memory and start are its own. The model is a crafted checkpoint that never ends by itself;
adapters are random, of every matrix of a layer.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.report import add_save_option, save  # noqa: E402
from benchmarks.shapes import BUNDLED  # noqa: E402
from orpheus_plugin.tokens.base import SamplingParams, TokenGenerator  # noqa: E402
from orpheus_plugin.tokens.vocabulary import Vocabulary  # noqa: E402
from tests.support.adapters import random_adapter  # noqa: E402
from tests.support.checkpoints import SMALL_TEXT, crafted_checkpoint  # noqa: E402


def make(
    engine: str, model: Path, vocabulary: Vocabulary, streams: int, adapters: dict[str, Path]
) -> TokenGenerator:
    """A token engine, not yet started."""
    if engine == "vllm":
        from orpheus_plugin.tokens.vllm.generator import VllmGenerator
        from orpheus_plugin.tokens.vllm.options import VllmOptions

        options = VllmOptions(max_streams=streams, max_model_len=2048, kv_cache_bytes=256 << 20)
        return VllmGenerator(model, vocabulary, options, adapters=adapters)
    if engine == "cpu":
        from orpheus_plugin.tokens.cpu.generator import CpuLlama

        return CpuLlama(model, vocabulary, max_streams=streams, adapters=adapters)
    from orpheus_plugin.tokens.torch.generator import TorchLlama

    return TorchLlama(model, vocabulary, max_streams=streams, adapters=adapters)


async def measure(
    engine: str, count: int, streams: int, ids: int, rounds: int, rank: int
) -> dict[str, float]:
    """Figures of one engine with `count` adapters, which every other request speaks with."""
    model = crafted_checkpoint(stop=0.0, text=SMALL_TEXT, **BUNDLED)
    vocabulary = Vocabulary.load(model)
    with tempfile.TemporaryDirectory() as folder:
        adapters = {
            f"voice{n}": random_adapter(model, Path(folder) / str(n), rank=rank, seed=n, size=0.02)
            for n in range(count)
        }
        generator = make(engine, model, vocabulary, streams, adapters)
        began = time.perf_counter()
        await generator.start()
        start_s = time.perf_counter() - began
        names: list[str | None] = [*adapters] or [None]
        prompt = vocabulary.prompt("tara", "It is a fine day for a walk by the sea.")

        async def speak(number: int) -> int:
            sampling = SamplingParams(max_tokens=ids)
            adapter, seen = names[number % len(names)], 0
            async for chunk in generator.generate(
                prompt, sampling, f"bench-{number}", adapter=adapter
            ):
                seen += len(chunk.ids)
            return seen

        speeds, costs = [], []
        for _ in range(rounds + 1):
            began, used = time.perf_counter(), cpu_s()
            total = sum(await asyncio.gather(*(speak(number) for number in range(streams))))
            speeds.append(total / (time.perf_counter() - began))
            costs.append(1e6 * (cpu_s() - used) / total)
        found = {
            "adapters": float(count),
            "ids_per_second": statistics.median(speeds[1:]),
            "cpu_us_per_id": statistics.median(costs[1:]),
            "start_s": start_s,
            "resident_mib": resident_mib(),
        }
        await generator.aclose()
    return found


def family() -> list[int]:
    """This process and those below it."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError):
                parents[int(entry.name)] = int(
                    (entry / "stat").read_text().rpartition(")")[2].split()[1]
                )
    found = [os.getpid()]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def resident_mib() -> float:
    pages = 0
    for process in family():
        with contextlib.suppress(OSError):
            pages += int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def cpu_s() -> float:
    ticks = 0
    for process in family():
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Parse the arguments, measure each number of adapters in a process of its own, print and
    save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("vllm", "cpu", "torch"), default="vllm")
    parser.add_argument("--counts", default="0,1,4,8")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--ids", type=int, default=140)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rank", type=int, default=16)
    add_save_option(parser)
    args = parser.parse_args()
    counts = [int(count) for count in args.counts.split(",")]
    if len(counts) == 1:
        found = asyncio.run(
            measure(args.engine, counts[0], args.streams, args.ids, args.rounds, args.rank)
        )
        print(json.dumps(found))
        return
    rows = []
    for count in counts:
        own = [f"--{name}={getattr(args, name)}" for name in ("engine", "streams", "ids", "rounds")]
        command = [sys.executable, __file__, *own, f"--rank={args.rank}", f"--counts={count}"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(" ".join(f"{name} {value:.1f}" for name, value in rows[-1].items()), flush=True)
    setting = {name: getattr(args, name) for name in ("streams", "ids", "rounds", "rank")}
    save(f"adapters_{args.engine}", {"shape": BUNDLED, **setting, "rows": rows})


if __name__ == "__main__":
    main()
