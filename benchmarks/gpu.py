"""What one GPU does with Orpheus on vLLM and the codec on the same card:
`python benchmarks/gpu.py`.

One start of vLLM, and in it every way to run the rest that is asked for with --ways, each written
as CODEC,STEP,SAMPLER:

* codec: "own", this process, or "vllm", in vLLM's worker; step: "plain" or "tuned" (see
  TorchDecoder); sampler: "whole", vLLM's own, or "compact" (see VllmOptions). --mps runs all of
  them under NVIDIA's MPS, as `serve --mps` does.

For each way: listeners who begin together, milliseconds to their first sound and who had underruns
(see `capacity.py`). For the way that serves most: turns that arrive at rising rates (see
`load.py`). With --details, of vLLM itself: the first id, the time from leaving a request to an
engine that holds nothing, ids/s of turns against requests to vLLM alone and decoded ones (see
`engine_cost.py`), and the time from killing vLLM's process to the last request being told.

    python benchmarks/gpu.py --model DIR --codec DIR     a model
    python benchmarks/gpu.py                             weights made up, the shape of Orpheus 3B
    python benchmarks/gpu.py --dry-run                   on a CPU: crafted checkpoint, few turns

Made-up weights do not end: --ids cuts every utterance at the same length. vLLM takes one to two
minutes to start. Figures are written after each part.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks import capacity, engine_cost, load, vllm_engine  # noqa: E402
from benchmarks.report import add_save_option, save  # noqa: E402
from benchmarks.vllm_models import Choice, crafted_3b  # noqa: E402
from orpheus_plugin.codec import CodecStep, open_decoder  # noqa: E402
from orpheus_plugin.codec.batcher import CodecBatcher  # noqa: E402
from orpheus_plugin.codec.step import StreamingDecoder  # noqa: E402
from orpheus_plugin.engine.codec_in_vllm import WORKER, WorkerCodec  # noqa: E402
from orpheus_plugin.engine.config import EngineConfig  # noqa: E402
from orpheus_plugin.engine.local import LocalEngine  # noqa: E402
from orpheus_plugin.models.files import ModelFiles, ModelSpec  # noqa: E402
from orpheus_plugin.server.mps import mps  # noqa: E402
from orpheus_plugin.tokens.base import SamplingParams  # noqa: E402
from orpheus_plugin.tokens.vllm.options import VllmOptions  # noqa: E402
from orpheus_plugin.tokens.vocabulary import Vocabulary  # noqa: E402

WELL_SERVED = 0.05
"""A number of listeners is served if at most this share of them has an underrun."""


@dataclass(frozen=True)
class Way:
    codec: Literal["own", "vllm"]
    step: CodecStep
    sampler: Literal["whole", "compact"]

    @classmethod
    def of(cls, text: str) -> Way:
        parts = text.split(",")
        known = (("own", "vllm"), ("plain", "tuned"), ("whole", "compact"))
        if len(parts) != 3 or any(part not in of for part, of in zip(parts, known, strict=True)):
            raise argparse.ArgumentTypeError(f"{text!r} is not CODEC,STEP,SAMPLER")
        return cls(*cast("Any", parts))

    def __str__(self) -> str:
        return f"{self.codec},{self.step},{self.sampler}"


class Bench:
    """An engine whose codec and sampler can be changed while nothing runs."""

    def __init__(self, files: ModelFiles, args: argparse.Namespace) -> None:
        self._files = files
        self._device: str = args.device
        self._slots = 2 * max(args.listeners)
        self._made: list[engine_cost.Vllm] = []
        self._codecs: dict[tuple[str, CodecStep], CodecBatcher] = {}
        options = VllmOptions(
            max_streams=self._slots,
            max_model_len=2048,
            kv_cache_bytes=int(args.cache_gib * 2**30),
            quantization=args.quantization,
        )

        def make(files: ModelFiles, vocabulary: Vocabulary) -> engine_cost.Vllm:
            self._made.append(engine_cost.Vllm(files.lm, vocabulary, options, worker=WORKER))
            return self._made[-1]

        config = EngineConfig(device=args.device, max_turns=max(args.listeners))
        self.engine = LocalEngine(config, files=files, generator=make)

    @property
    def vllm(self) -> engine_cost.Vllm:
        return self._made[0]

    async def use(self, way: Way) -> None:
        supervisor = self.engine._supervisor
        parts = supervisor.parts
        assert parts is not None
        self._codecs.setdefault(("own", "plain"), parts.codec)
        kind = way.codec, way.step
        if kind not in self._codecs:
            codec = self._codecs[kind] = CodecBatcher(self._decoder(way))
            await asyncio.to_thread(codec.start)
        supervisor.parts = dataclasses.replace(parts, codec=self._codecs[kind])
        used = await self.vllm.there(self.vllm.use_sampler(way.sampler))
        if used != way.sampler:
            raise SystemExit(f"the {way.sampler} sampler cannot be used here")
        await self.vllm.there(self.vllm._warm_up())  # with the kernels of this sampler

    def _decoder(self, way: Way) -> StreamingDecoder:
        folder, slots, device = self._files.codec, self._slots, self._device
        if way.codec == "own":
            return open_decoder(folder, slots=slots, device=device, step=way.step)
        return WorkerCodec(self.vllm, folder, slots=slots, device=device, step=way.step)

    async def listeners(self, levels: list[int]) -> dict[int, Any]:
        found: dict[int, Any] = {}
        await capacity.together(self.engine, 1)
        print(capacity.HEADING)
        for level in levels:
            row = found[level] = await capacity.together(self.engine, level)
            capacity.show(level, row)
            if row["with_underruns"] > 0.5:
                break
        return found

    async def close(self) -> None:
        del self._codecs["own", "plain"]  # the engine's
        for codec in self._codecs.values():
            await asyncio.to_thread(codec.close)
        await self.engine.aclose()


def served(rows: dict[int, Any]) -> int:
    return max((n for n, row in rows.items() if row["with_underruns"] <= WELL_SERVED), default=0)


async def details(
    bench: Bench, choice: Choice, args: argparse.Namespace, figures: dict[str, Any]
) -> None:
    vllm = bench.vllm
    requests = vllm_engine.Bench(vllm, choice, bench.engine.files.spec.sampling)
    figures["first_id"] = await vllm.there(vllm_engine.first_id_ms(requests))
    figures["cancel_alone"] = await vllm.there(requests.cancels(args.cancels, 0))
    figures["cancel_of_8"] = await vllm.there(requests.cancels(args.cancels, 7))
    for name in ("first_id", "cancel_alone", "cancel_of_8"):
        print(name, {key: round(value, 2) for key, value in figures[name].items()}, flush=True)
    files = bench.engine.files
    codec = CodecBatcher(open_decoder(files.codec, device=args.device, slots=max(args.streams)))
    codec.start()
    cost = engine_cost.Bench(bench.engine, vllm, choice, codec)
    figures["ids_per_s"] = {}
    print("| streams | vLLM alone ids/s | decoded | engine | engine to alone, to decoded |")
    print("|---|---|---|---|---|")
    for streams in args.streams:
        row = figures["ids_per_s"][streams] = await cost.compare(streams, args.rounds)
        names = ("alone", "decoded", "engine")
        speeds = " | ".join(f"{row[name]['ids_per_s']:.0f}" for name in names)
        ratios = f"{row['engine_to_alone']:.3f}, {row['engine_to_decoded']:.3f}"
        print(f"| {streams} | {speeds} | {ratios} |", flush=True)
        save(args.out, figures)
    codec.close()
    figures["death_ms"] = await vllm.there(requests.death_ms())
    print("death_ms", round(figures["death_ms"], 1))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add_save_option(parser)
    parser.add_argument("--model", type=Path, help="directory of a model")
    parser.add_argument("--codec", type=Path, help="directory of SNAC 24 kHz")
    parser.add_argument(
        "--ids", type=int, help="at which an utterance is cut; 280 (3.4 s) without --model"
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--ways", type=Way.of, nargs="+", default=[Way("own", "plain", "whole")])
    parser.add_argument("--mps", action="store_true")
    parser.add_argument("--listeners", type=int, nargs="+", default=[1, 16, 32, 64, 96, 128])
    parser.add_argument("--rates", type=float, nargs="*", default=[8, 16, 24])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each rate")
    parser.add_argument("--details", action="store_true")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cancels", type=int, default=100)
    parser.add_argument("--cache-gib", type=float, default=16.0, help="attention cache")
    parser.add_argument("--quantization", help="such as fp8")
    parser.add_argument("--out", default="gpu")
    parser.add_argument("--dry-run", action="store_true")
    args = parser.parse_args()
    if args.dry_run:
        args.device, args.cache_gib, args.seconds = "cpu", 0.25, 8.0
        args.listeners, args.rates = [1, 2], [0.5]
        args.streams, args.rounds, args.cancels = [1], 1, 3
        args.ids = args.ids or 70
    return args


def model_files(args: argparse.Namespace) -> ModelFiles:
    from tests.support.checkpoints import crafted_checkpoint
    from tests.support.codecs import FULL_SIZE, random_codec

    made_up = crafted_checkpoint(stop=0.0) if args.dry_run else None
    model = args.model or made_up or crafted_3b()
    ids = args.ids or (None if args.model else 280)
    sampling = SamplingParams(max_tokens=ids) if ids else SamplingParams()
    codec = args.codec or (random_codec() if args.dry_run else random_codec(FULL_SIZE))
    return ModelFiles(ModelSpec(model.name, voices=("tara",), sampling=sampling), model, codec)


async def main() -> None:
    args = arguments()
    logging.getLogger("orpheus_plugin").setLevel(logging.ERROR)  # turns are cut short on purpose
    files = model_files(args)
    with mps() if args.mps else contextlib.nullcontext() as daemon:
        bench = Bench(files, args)
        began = time.perf_counter()
        await bench.engine.start()
        figures: dict[str, Any] = {
            "model": str(args.model or files.lm.name),
            "quantization": args.quantization,
            "sampling": str(files.spec.sampling),
            "start_s": time.perf_counter() - began,
            "ways": {},
        }
        if daemon is not None:
            figures["mps"] = await asyncio.to_thread(daemon.check, 2)
            print(f"mps: {figures['mps']}")
        print(f"start_s: {figures['start_s']:.0f}", flush=True)
        best: tuple[int, Way] | None = None
        for way in args.ways:
            await bench.use(way)
            print(f"way: {way}")
            rows = figures["ways"][str(way)] = await bench.listeners(args.listeners)
            save(args.out, figures)
            if best is None or served(rows) > best[0]:
                best = served(rows), way
        if best is not None and args.rates:
            await bench.use(best[1])
            figures["best"] = {"way": str(best[1]), "listeners": best[0]}
            print(f"best: {best[1]}, {best[0]} listeners")
            figures["open_load"] = {}
            print("| turns/s | audible p50, p95 ms | C50, C100, C200 | goodput, refused turns/s |")
            print("|---|---|---|---|")
            for rate in args.rates:
                heard = await load.arrivals(bench.engine, rate, args.seconds, 1, 10.0)
                row = figures["open_load"][rate] = load.figures(heard, args.seconds)
                print(
                    f"| {rate:g} | {row['first_p50_ms']:.0f}, {row['first_p95_ms']:.0f}"
                    f" | {row['c50']:.1%}, {row['c100']:.1%}, {row['c200']:.1%}"
                    f" | {row['goodput']:.2f}, {row['refused']:.2f} |",
                    flush=True,
                )
                save(args.out, figures)
        if args.details:
            await bench.use(args.ways[0])
            choice = Choice(files.lm.name, files.lm, Vocabulary.load(files.lm), True)
            await details(bench, choice, args, figures)
        await bench.close()
        save(args.out, figures)


if __name__ == "__main__":
    asyncio.run(main())
