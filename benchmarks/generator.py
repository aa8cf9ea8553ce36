"""How fast the generators of this process are:
``python benchmarks/generator.py`` (or ``--ids 140 --streams 1,8``).

Each row runs so many requests at once to the same length and prints

* ids a second for all of them, and for one as a multiple of real time (82 ids a second);
* milliseconds from the request to its first id, median;
* the longest wait of a request between two of its chunks, in milliseconds;
* seconds of the worker's own CPU for a thousand ids, which other jobs on the machine change least;
* microseconds of the event loop's CPU for an id.

On a CPU, CpuLlama and TorchLlama alternate, so that other work of the machine affects both alike.

The models: the crafted checkpoint of the tests (20M parameters, almost all of them embeddings), and
one with the shape of the bundled voice. Each figure is the best of `--repeats` runs. Sampling is
Orpheus' own: temperature 0.6, top_p 0.8, penalty 1.1.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.report import add_save_option, save  # noqa: E402
from benchmarks.shapes import BUNDLED  # noqa: E402
from orpheus_plugin.tokens.base import SamplingParams  # noqa: E402
from orpheus_plugin.tokens.batched import BatchedGenerator  # noqa: E402
from orpheus_plugin.tokens.cpu.generator import CpuLlama  # noqa: E402
from orpheus_plugin.tokens.torch.generator import TorchLlama  # noqa: E402
from orpheus_plugin.tokens.vocabulary import Vocabulary  # noqa: E402
from tests.support.checkpoints import SMALL_TEXT, crafted_checkpoint  # noqa: E402

REAL_TIME = 7 * 24000 / 2048  # ids a second
TEXT = "Hello there, how are you doing on this fine day?"
HEADINGS = (
    "streams",
    "ids/s",
    "x real time",
    "first id ms",
    "longest gap ms",
    "CPU s/1000",
    "loop us/id",
)


@dataclass
class Row:
    """Figures of one number of streams."""

    model: str
    engine: str
    streams: int
    ids_per_second: float
    times_real_time: float
    first_id_ms: float
    longest_gap_ms: float
    cpu_seconds_per_1000: float
    loop_us_per_id: float


def models() -> dict[str, Path]:
    """Checkpoints that never end an utterance by themselves."""
    return {
        "crafted, width 64 x 2 layers": crafted_checkpoint(stop=0.0),
        "as the bundled voice, width 256 x 6 layers": crafted_checkpoint(
            stop=0.0, text=SMALL_TEXT, **BUNDLED
        ),
    }


async def one(
    generator: BatchedGenerator, prompt: list[int], ids: int, name: str
) -> tuple[float, float]:
    """Seconds to the first chunk and the longest between two."""
    last = time.perf_counter()
    first = gap = 0.0
    async for _ in generator.generate(prompt, SamplingParams(max_tokens=ids), name):
        now = time.perf_counter()
        if first:
            gap = max(gap, now - last)
        else:
            first = now - last
        last = now
    return first, gap


async def measure(
    generator: BatchedGenerator, prompt: list[int], streams: int, ids: int
) -> dict[str, float]:
    process, loop = time.process_time(), time.thread_time()
    began = time.perf_counter()
    times = await asyncio.gather(
        *(one(generator, prompt, ids, f"{number}") for number in range(streams))
    )
    took = time.perf_counter() - began
    loop = time.thread_time() - loop
    worker = time.process_time() - process - loop
    total = streams * ids
    return {
        "ids_per_second": total / took,
        "times_real_time": ids / took / REAL_TIME,
        "first_id_ms": 1e3 * statistics.median(first for first, _ in times),
        "longest_gap_ms": 1e3 * max(gap for _, gap in times),
        "cpu_seconds_per_1000": 1e3 * worker / total,
        "loop_us_per_id": 1e6 * loop / total,
    }


async def run(arguments: argparse.Namespace) -> list[Row]:
    rows: list[Row] = []
    for name, path in models().items():
        vocabulary = Vocabulary.load(path)
        prompt = vocabulary.prompt("tara", TEXT)
        generators: dict[str, BatchedGenerator] = {
            "torch": TorchLlama(
                path,
                vocabulary,
                max_streams=max(arguments.streams),
                device=arguments.device,
                dtype=arguments.dtype,
            )
        }
        if arguments.device == "cpu":
            generators["cpu"] = CpuLlama(path, vocabulary, max_streams=max(arguments.streams))
        for generator in generators.values():
            await generator.start()
        print(f"\n{name}\n{'engine':>8}" + "".join(f"{heading:>16}" for heading in HEADINGS))
        for streams in arguments.streams:
            runs: dict[str, list[dict[str, float]]] = {engine: [] for engine in generators}
            for _ in range(arguments.repeats):
                for engine, generator in generators.items():
                    runs[engine].append(await measure(generator, prompt, streams, arguments.ids))
            for engine, figures in runs.items():
                best = {
                    key: (max if key in ("ids_per_second", "times_real_time") else min)(
                        one[key] for one in figures
                    )
                    for key in figures[0]
                }
                rows.append(Row(name, engine, streams, **best))
                values = "".join(f"{value:16.4g}" for value in (streams, *best.values()))
                print(f"{engine:>8}{values}", flush=True)
        for generator in generators.values():
            await generator.aclose()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_save_option(parser)
    parser.add_argument("--ids", type=int, default=420, help="ids a request (7 a frame of 85 ms)")
    parser.add_argument("--streams", default="1,4,8,16,32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--dtype", default=None, help="of the weights; by default TorchLlama's choice"
    )
    parser.add_argument("--out", default="generator", help="name of the file of results")
    arguments = parser.parse_args()
    arguments.streams = [int(number) for number in arguments.streams.split(",")]
    rows = asyncio.run(run(arguments))
    save(
        arguments.out,
        {
            "ids": arguments.ids,
            "device": arguments.device,
            "rows": [asdict(row) for row in rows],
        },
    )


if __name__ == "__main__":
    main()
