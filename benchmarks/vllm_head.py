"""What the restricted head and the compact sampler gain in vLLM: `python benchmarks/vllm_head.py`.

ids/s with vLLM's own head and sampler ("whole"), with the restricted head and vLLM's sampler
("restricted"), and with the restricted head and the compact sampler ("compact"), for 1, 8 and 32
streams, with Orpheus' sampling (temperature 0.6, top_p 0.8, repetition penalty 1.1) and with top_k
50. One engine after the other. Also the processor time that vLLM's worker took for an id, which
hardly depends on what else a CPU machine does (on a GPU it means nothing).

    python benchmarks/vllm_head.py [--model DIR | --random-3b] [--quantization fp8]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.report import save  # noqa: E402
from benchmarks.vllm_models import Choice, arguments_of, options_for  # noqa: E402
from benchmarks.vllm_raw import children  # noqa: E402
from orpheus_plugin.tokens.vllm.generator import VllmGenerator  # noqa: E402

SAMPLERS: dict[str, dict[str, Any]] = {
    "production": {"temperature": 0.6, "top_p": 0.8, "repetition_penalty": 1.1},
    "top_k": {"temperature": 0.6, "top_k": 50},
}
VARIANTS = ["whole", "restricted", "compact"]


async def measure(
    generator: VllmGenerator, choice: Choice, sampler: dict[str, Any], streams: int, ids: int
) -> dict[str, float]:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    params = SamplingParams(
        **sampler,
        max_tokens=ids,
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        stream_interval=7,
    )
    prompt = choice.vocabulary.prompt("tara", "It is a fine day for a walk by the sea.")

    async def one(name: str) -> None:
        async for _ in generator.engine.generate(
            {"type": "token", "prompt_token_ids": prompt}, params, name
        ):
            pass

    began, spent = time.perf_counter(), sum(children().values())
    await asyncio.gather(*(one(f"{time.monotonic_ns()}-{n}") for n in range(streams)))
    count = streams * ids
    return {
        "ids_per_s": count / (time.perf_counter() - began),
        "engine_cpu_ms_per_id": 1e3 * (sum(children().values()) - spent) / count,
    }


async def run(
    choice: Choice, variant: str, args: argparse.Namespace
) -> dict[str, dict[int, dict[str, float]]]:
    options = options_for(
        choice,
        max(args.streams),
        restricted_head=variant != "whole",
        sampler="compact" if variant == "compact" else "whole",
        quantization=args.quantization,
    )
    generator = VllmGenerator(choice.directory, choice.vocabulary, options)
    await generator.start()
    try:
        found: dict[str, dict[int, dict[str, float]]] = {}
        for name, sampler in SAMPLERS.items():
            found[name] = {}
            for streams in args.streams:
                ids = max(21, args.ids // streams)
                await measure(generator, choice, sampler, streams, min(ids, 7))
                results = [
                    await measure(generator, choice, sampler, streams, ids)
                    for _ in range(args.rounds)
                ]
                found[name][streams] = {
                    "ids_per_s": max(result["ids_per_s"] for result in results),
                    "engine_cpu_ms_per_id": min(
                        result["engine_cpu_ms_per_id"] for result in results
                    ),
                }
        return found
    finally:
        await generator.aclose()


async def main() -> None:
    parser = arguments_of(__doc__, ids=560, rounds=2, of="a round, of all streams")
    parser.add_argument(
        "--only", nargs="+", choices=VARIANTS, default=VARIANTS, help="some of the variants"
    )
    args = parser.parse_args()
    choice = Choice.of(args)
    found = {variant: await run(choice, variant, args) for variant in args.only}
    columns = " | ".join(f"{variant}: ids/s, CPU ms an id" for variant in args.only)
    print(f"| sampling | streams | {columns} | gain |")
    print("|---" * (3 + len(args.only)) + "|")
    for name in SAMPLERS:
        for streams in args.streams:
            row = [found[variant][name][streams] for variant in args.only]
            cells = [f"{r['ids_per_s']:.0f}, {r['engine_cpu_ms_per_id']:.2f}" for r in row]
            gain = row[-1]["ids_per_s"] / row[0]["ids_per_s"]
            cpu_gain = row[0]["engine_cpu_ms_per_id"] / max(1e-9, row[-1]["engine_cpu_ms_per_id"])
            print(f"| {name} | {streams} | {' | '.join(cells)} | {gain:.2f}, {cpu_gain:.2f} |")
    save(
        args.out or f"vllm_head{'_gpu' if choice.gpu else ''}",
        {
            "model": choice.name,
            "quantization": args.quantization,
            "ids_a_round": args.ids,
            "rounds": args.rounds,
            "variants": found,
        },
    )


if __name__ == "__main__":
    asyncio.run(main())
