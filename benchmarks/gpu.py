"""What one GPU does with Orpheus on vLLM and the codec beside it: `python benchmarks/gpu.py`. One start, all figures:

* listeners at once: milliseconds to their first sound, who ran dry (as `capacity.py`, where this is explained);
* vLLM's part: the first id, the time from leaving a request to an engine that holds nothing;
* ids/s of N turns against N requests to vLLM alone, and decoded by the codec (as `engine_cost.py`);
* the time from killing vLLM's process to the last request being told.

    python benchmarks/gpu.py --model DIR --codec DIR     a model
    python benchmarks/gpu.py                             weights made up, the shape of Orpheus 3B

With made-up weights every utterance has the same length, 280 ids (3.4 s). vLLM takes one to two minutes to start.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks import capacity, engine_cost, vllm_engine  # noqa: E402
from benchmarks.report import save  # noqa: E402
from benchmarks.vllm_models import Choice, crafted_3b  # noqa: E402
from orpheus_plugin.codec import open_decoder  # noqa: E402
from orpheus_plugin.codec.batcher import CodecBatcher  # noqa: E402
from orpheus_plugin.engine.config import EngineConfig  # noqa: E402
from orpheus_plugin.engine.local import LocalEngine  # noqa: E402
from orpheus_plugin.models.files import ModelFiles, ModelSpec  # noqa: E402
from orpheus_plugin.tokens.base import SamplingParams  # noqa: E402
from orpheus_plugin.tokens.vllm.options import VllmOptions  # noqa: E402
from orpheus_plugin.tokens.vocabulary import Vocabulary  # noqa: E402


async def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="directory of a model")
    parser.add_argument("--codec", type=Path, help="directory of SNAC 24 kHz")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--listeners", type=int, nargs="+", default=[1, 8, 16, 32, 48, 64, 96])
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cancels", type=int, default=100)
    parser.add_argument("--cache-gib", type=float, default=16.0, help="attention cache")
    parser.add_argument("--quantization", help="such as fp8")
    parser.add_argument("--out", default="gpu")
    args = parser.parse_args()

    from tests.support.codecs import FULL_SIZE, random_codec

    logging.getLogger("orpheus_plugin").setLevel(logging.ERROR)  # turns are cut short on purpose
    model = args.model or crafted_3b()
    sampling = SamplingParams() if args.model else SamplingParams(max_tokens=280)
    spec = ModelSpec(model.name, voices=("tara",), sampling=sampling)
    files = ModelFiles(spec, model, args.codec or random_codec(FULL_SIZE))
    made: list[engine_cost.Vllm] = []

    def make(files: ModelFiles, vocabulary: Vocabulary) -> engine_cost.Vllm:
        options = VllmOptions(
            max_streams=2 * max(args.listeners),
            max_model_len=2048,
            kv_cache_bytes=int(args.cache_gib * 2**30),
            quantization=args.quantization,
        )
        made.append(engine_cost.Vllm(files.lm, vocabulary, options))
        return made[0]

    engine = LocalEngine(
        EngineConfig(device=args.device, max_turns=max(args.listeners)), files=files, generator=make
    )
    began = time.perf_counter()
    await engine.start()
    figures: dict[str, Any] = {
        "model": str(args.model or "random weights, 3B"),
        "quantization": args.quantization,
        "sampling": str(sampling),
        "start_s": time.perf_counter() - began,
    }
    print(f"start_s: {figures['start_s']:.0f}", flush=True)
    (vllm,) = made

    await capacity.together(engine, 1)
    figures["listeners"] = {}
    print(capacity.HEADING)
    for listeners in args.listeners:
        row = figures["listeners"][listeners] = await capacity.together(engine, listeners)
        capacity.show(listeners, row)
    save(args.out, figures)

    choice = Choice(model.name, model, Vocabulary.load(model), True)
    requests = vllm_engine.Bench(vllm, choice, sampling)
    figures["first_id"] = await vllm.there(vllm_engine.first_id_ms(requests))
    figures["cancel_alone"] = await vllm.there(requests.cancels(args.cancels, 0))
    figures["cancel_of_8"] = await vllm.there(requests.cancels(args.cancels, 7))
    for name in ("first_id", "cancel_alone", "cancel_of_8"):
        print(name, {key: round(value, 2) for key, value in figures[name].items()}, flush=True)

    codec = CodecBatcher(open_decoder(files.codec, device=args.device, slots=max(args.streams)))
    codec.start()
    cost = engine_cost.Bench(engine, vllm, choice, codec)
    figures["ids_per_s"] = {}
    print("| streams | vLLM alone ids/s | decoded | engine | engine to alone, to decoded |")
    print("|---|---|---|---|---|")
    for streams in args.streams:
        row = figures["ids_per_s"][streams] = await cost.compare(streams, args.rounds)
        speeds = " | ".join(
            f"{row[name]['ids_per_s']:.0f}" for name in ("alone", "decoded", "engine")
        )
        print(
            f"| {streams} | {speeds} | {row['engine_to_alone']:.3f}, {row['engine_to_decoded']:.3f} |",
            flush=True,
        )
        save(args.out, figures)
    codec.close()

    figures["death_ms"] = await vllm.there(requests.death_ms())
    print("death_ms", round(figures["death_ms"], 1))
    await engine.aclose()
    save(args.out, figures)


if __name__ == "__main__":
    asyncio.run(main())
