"""What Orpheus can do on a GPU, on paper: `python benchmarks/roofline.py`. NOTHING HERE WAS MEASURED.

A decoding step reads every weight once and every stream's attention cache, and multiplies each weight with each stream.
The step takes whichever of the two takes longer, at the shares of the data sheet's figures that are given as --bandwidth-share
and --compute-share (assumptions). Launch gaps, the sampler, the engine's own work and the codec are left out, so that
real figures are lower, most of all where a step is short (large GPUs, few streams).

    python benchmarks/roofline.py                              the GPUs below
    python benchmarks/roofline.py --gpu mine:1000:200:400:24   name : GB/s : bf16 TFLOPS : fp8 TFLOPS : GB of memory
    python benchmarks/roofline.py --config DIR/config.json     another model
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.report import save  # noqa: E402
from benchmarks.shapes import AUDIO_ROWS, ORPHEUS_3B  # noqa: E402

IDS_PER_SECOND = 7 * 24_000 / 2048
"""Ids of a second of speech: 82.03."""
FIRST_AUDIO_IDS = 18
"""Ids before the first exact audio: two frames and the slots that complete the next two latents."""


@dataclass(frozen=True)
class Gpu:
    """Data sheet figures: GB/s of memory, dense TFLOPS in bf16 and fp8 (the bf16 figure where it has no fp8), GB of memory."""

    name: str
    bandwidth: float
    bf16: float
    fp8: float
    memory: float


GPUS = (  # NVIDIA's data sheets, dense (without sparsity)
    Gpu("H200", 4800, 989, 1979, 141),
    Gpu("H100 SXM", 3350, 989, 1979, 80),
    Gpu("A100 80GB", 2039, 312, 312, 80),
    Gpu("RTX 5090", 1792, 210, 419, 32),
    Gpu("RTX 4090", 1008, 165, 330, 24),
    Gpu("L40S", 864, 362, 733, 48),
    Gpu("A10", 600, 125, 125, 24),
    Gpu("L4", 300, 121, 242, 24),
)


@dataclass(frozen=True)
class Model:
    """Sizes of a Llama: parameters that a step reads in `body` and `head`, parameters of the whole `embedding` (which is
    also the head where they are tied), bytes of keys and values an id in the `cache` (bf16)."""

    body: int
    head: int
    embedding: int
    cache: int

    @classmethod
    def of(cls, config: dict[str, Any], *, restricted: bool) -> Model:
        hidden, layers = config["hidden_size"], config["num_hidden_layers"]
        heads = config["num_attention_heads"]
        kv_heads = config.get("num_key_value_heads", heads)
        size = config.get("head_dim") or hidden // heads
        attention = 2 * hidden * heads * size + 2 * hidden * kv_heads * size
        rows = AUDIO_ROWS if restricted else config["vocab_size"]
        return cls(
            body=layers * (attention + 3 * hidden * config["intermediate_size"]),
            head=rows * hidden,
            embedding=config["vocab_size"]
            * hidden
            * (1 if config.get("tie_word_embeddings") else 2),
            cache=2 * layers * kv_heads * size * 2,
        )


@dataclass(frozen=True)
class Assumptions:
    bandwidth_share: float
    compute_share: float
    context: int
    prompt: int
    reserve_gb: float


def step_s(gpu: Gpu, model: Model, streams: int, fp8: bool, a: Assumptions) -> float:
    """Seconds of a decoding step. fp8 is weights of the body; head, activations and cache stay bf16."""
    read = model.body * (1 if fp8 else 2) + model.head * 2 + streams * a.context * model.cache
    flops = 2 * streams * (model.body / (gpu.fp8 if fp8 else gpu.bf16) + model.head / gpu.bf16)
    return max(read / (a.bandwidth_share * gpu.bandwidth * 1e9), flops / (a.compute_share * 1e12))


def real_time_streams(gpu: Gpu, model: Model, fp8: bool, a: Assumptions) -> int:
    """The most streams whose step keeps up with the speech, and whose caches (at twice the mean context) fit."""
    weights = model.body * (1 if fp8 else 2) + model.embedding * 2
    room = (gpu.memory - a.reserve_gb) * 1e9 - weights
    fitting = int(room // (2 * a.context * model.cache))
    low, high = 0, max(0, fitting)
    while low < high:
        middle = (low + high + 1) // 2
        if step_s(gpu, model, middle, fp8, a) <= 1 / IDS_PER_SECOND:
            low = middle
        else:
            high = middle - 1
    return low


def first_audio_s(gpu: Gpu, model: Model, fp8: bool, a: Assumptions) -> float:
    """From the prompt to the ids of the first exact audio, one stream alone, engine and codec not counted."""
    prefill = max(
        step_s(gpu, model, 1, fp8, a),
        2 * a.prompt * model.body / (a.compute_share * 1e12 * (gpu.fp8 if fp8 else gpu.bf16)),
    )
    return prefill + (FIRST_AUDIO_IDS - 1) * step_s(gpu, model, 1, fp8, a)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--config", type=Path, help="config.json of a Llama (default: Orpheus 3B)")
    parser.add_argument("--gpu", help="name:GB/s:bf16 TFLOPS:fp8 TFLOPS:GB")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32, 64, 128])
    parser.add_argument("--bandwidth-share", type=float, default=0.8)
    parser.add_argument("--compute-share", type=float, default=0.5)
    parser.add_argument("--context", type=int, default=300, help="mean ids of a stream's cache")
    parser.add_argument("--prompt", type=int, default=40, help="ids of a prompt")
    parser.add_argument("--reserve", type=float, default=4.0, help="GB for codec, graphs, contexts")
    args = parser.parse_args()
    a = Assumptions(
        args.bandwidth_share, args.compute_share, args.context, args.prompt, args.reserve
    )
    config = json.loads(args.config.read_text()) if args.config else ORPHEUS_3B
    gpus: tuple[Gpu, ...] = GPUS
    if args.gpu:
        name, *figures = args.gpu.split(":")
        gpus = (Gpu(name, *map(float, figures)),)

    rows: list[dict[str, Any]] = []
    for gpu in gpus:
        for fp8 in (False, True):
            for restricted in (False, True):
                model = Model.of(config, restricted=restricted)
                rows.append(
                    {
                        "gpu": gpu.name,
                        "weights": "fp8" if fp8 else "bf16",
                        "head": "restricted" if restricted else "whole",
                        "gb_per_step": (model.body * (1 if fp8 else 2) + 2 * model.head) / 1e9,
                        "ids_per_s": {
                            str(n): 1 / step_s(gpu, model, n, fp8, a) for n in args.streams
                        },
                        "real_time_streams": real_time_streams(gpu, model, fp8, a),
                        "first_audio_ms": 1e3 * first_audio_s(gpu, model, fp8, a),
                    }
                )

    print("CALCULATED, not measured: see the head of this file for what is left out.")
    print(f"{IDS_PER_SECOND:.2f} ids are a second of speech; {asdict(a)}")
    print(
        "| GPU | weights | head | GB a step | ids/s a stream with "
        + " / ".join(map(str, args.streams))
        + f" streams | real-time streams | first {FIRST_AUDIO_IDS} ids, ms |"
    )
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        speeds = " / ".join(f"{speed:.0f}" for speed in row["ids_per_s"].values())
        print(
            f"| {row['gpu']} | {row['weights']} | {row['head']} | {row['gb_per_step']:.2f} | {speeds}"
            f" | {row['real_time_streams']} | {row['first_audio_ms']:.0f} |"
        )
    save("roofline", {"calculated": True, "assumptions": asdict(a), "rows": rows})


if __name__ == "__main__":
    main()
