"""Expected performance of Orpheus on a GPU: `python benchmarks/roofline.py`. Calculated, not
measured.

First table: the language model alone. A decoding step reads every weight once and every stream's
attention cache, and multiplies each weight with each stream. It takes the longer of the two, at the
shares of the data sheet's figures given as --bandwidth-share and --compute-share (assumptions).
Real figures are lower, most of all where a step is short.

Second table: with sampler, host and codec, for the ways to run the codec on the same card (see
`Costs`, whose constants are fitted to one run on one H200). It says how many streams keep up with
their speech, and the time to the first sound.

    python benchmarks/roofline.py                              the GPUs below
    python benchmarks/roofline.py --gpu mine:1000:200:400:24   name:GB/s:bf16 TFLOPS:fp8 TFLOPS:GB
    python benchmarks/roofline.py --config DIR/config.json     another model
"""

from __future__ import annotations

import argparse
import bisect
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.report import add_save_option, save  # noqa: E402
from benchmarks.shapes import AUDIO_ROWS, ORPHEUS_3B  # noqa: E402

SLOTS = 7
COLUMNS_WHOLE: int = ORPHEUS_3B["vocab_size"]
COLUMNS_COMPACT = 4097
IDS_PER_SECOND = SLOTS * 24_000 / 2048
"""Ids of a second of speech: 82.03."""
FIRST_AUDIO_IDS = 18
"""Ids before the first exact audio: two frames and the slots that complete the next two rows of
codes."""


@dataclass(frozen=True)
class Gpu:
    """Data sheet figures: GB/s of memory, dense TFLOPS in bf16 and fp8 (the bf16 figure where it
    has no fp8), GB of memory."""

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
    """Sizes of a Llama: parameters that a step reads in `body` and `head`, parameters of the whole
    `embedding` (which is also the head where they are tied), bytes of keys and values an id in the
    `cache` (bf16)."""

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
    """Seconds of a decoding step. fp8 is weights of the body; head, activations and cache stay
    bf16."""
    read = model.body * (1 if fp8 else 2) + model.head * 2 + streams * a.context * model.cache
    flops = 2 * streams * (model.body / (gpu.fp8 if fp8 else gpu.bf16) + model.head / gpu.bf16)
    return max(read / (a.bandwidth_share * gpu.bandwidth * 1e9), flops / (a.compute_share * 1e12))


def real_time_streams(gpu: Gpu, model: Model, fp8: bool, a: Assumptions) -> int:
    """The most streams whose step keeps up with the speech, and whose caches fit."""
    return bisect.bisect_right(
        range(1, fitting_streams(gpu, model, fp8, a) + 1),
        1 / IDS_PER_SECOND,
        key=lambda n: step_s(gpu, model, n, fp8, a),
    )


def fitting_streams(gpu: Gpu, model: Model, fp8: bool, a: Assumptions) -> int:
    """The most streams whose caches fit, at twice the mean context."""
    weights = model.body * (1 if fp8 else 2) + model.embedding * 2
    room = (gpu.memory - a.reserve_gb) * 1e9 - weights
    return max(0, int(room // (2 * a.context * model.cache)))


def first_audio_s(gpu: Gpu, model: Model, fp8: bool, a: Assumptions) -> float:
    """From the prompt to the ids of the first exact audio, one stream alone, engine and codec not
    counted."""
    prefill = max(
        step_s(gpu, model, 1, fp8, a),
        2 * a.prompt * model.body / (a.compute_share * 1e12 * (gpu.fp8 if fp8 else gpu.bf16)),
    )
    return prefill + (FIRST_AUDIO_IDS - 1) * step_s(gpu, model, 1, fp8, a)


@dataclass(frozen=True)
class Costs:
    """What a step costs in addition to the language model's arithmetic. Fitted to a run on an H200
    with 16 Xeon cores (vLLM 0.32, whole-row sampler without FlashInfer;
    benchmarks/results/gpu_capacity.json, gpu_codec.json). Other cards: assumptions.

    Attributes:
        host_s: the GPU waits so long for vLLM in each step: measured steps of 1 to 96 requests (3.4
            to 5.3 ms) less the calculated ones and the sampler.
        sampler_s: of one stream, over the whole row of 156,940 logits: 0.65 ms for 64 streams.
        codec_launch_s, codec_stream_s: a codec step of one frame takes 1.6 ms for one stream, 7.7
            ms for 64. The part of each stream is memory traffic, so it scales with the card's
            bandwidth.
        tuned_launch: the tuned codec step launches so many operations for one of the plain step
            (255 of 638), which is most of `codec_launch_s`. Not measured on a GPU.
        lanes: streams in a codec step.
        time_slicing: where two processes share a card without MPS, a frame takes so much longer
            than the sum of both alone: 1.16 to 1.40 for 32 to 192 streams.
        call: a call into vLLM's worker between two steps slows the steps by so much (on a CPU: 1.01
            to 1.07).
    """

    host_s: float = 1.85e-3
    sampler_s: float = 10.2e-6
    codec_launch_s: float = 1.5e-3
    codec_stream_s: float = 97e-6
    tuned_launch: float = 0.4
    lanes: int = 32
    time_slicing: float = 1.3
    call: float = 1.05
    fitted_bandwidth: float = 4800

    def codec_s(self, gpu: Gpu, streams: int, *, tuned: bool) -> float:
        """Seconds of the codec steps of one frame of every stream."""
        steps = math.ceil(streams / self.lanes) * (self.tuned_launch if tuned else 1)
        one = self.codec_stream_s * self.fitted_bandwidth / gpu.bandwidth
        return steps * self.codec_launch_s + streams * one


CODEC = ("separate", "tuned", "mps", "worker")
"""A process of its own that takes turns with vLLM's; the same with the tuned step, which the
others have too; under MPS; in vLLM's worker on a stream of its own."""


@dataclass(frozen=True, slots=True)
class Setup:
    """A card, a model and a way to run the codec and the sampler on it.

    Attributes:
        how: one of CODEC.
        columns: logits in a row of the sampler.
    """

    gpu: Gpu
    model: Model
    fp8: bool
    a: Assumptions
    costs: Costs
    how: str
    columns: int

    def frame_s(self, streams: int) -> float:
        """Seconds in which every stream gets one frame (85.3 ms of speech)."""
        costs = self.costs
        sampler = streams * costs.sampler_s * self.columns / COLUMNS_WHOLE
        on_gpu = SLOTS * (step_s(self.gpu, self.model, streams, self.fp8, self.a) + sampler)
        alone = on_gpu + SLOTS * costs.host_s
        codec = self.codec_s(streams)
        if self.how in ("separate", "tuned"):
            return costs.time_slicing * (alone + codec)
        # The codec runs while the language model waits for its host.
        together = max(alone, on_gpu + codec)
        return together if self.how == "mps" else costs.call * together

    def codec_s(self, streams: int) -> float:
        return self.costs.codec_s(self.gpu, streams, tuned=self.how != "separate")

    def streams_in_time(self) -> int:
        """The most streams that keep up with their speech, with a tenth of the time to spare, and
        whose caches fit."""
        most = fitting_streams(self.gpu, self.model, self.fp8, self.a)
        return bisect.bisect_right(
            range(1, most + 1), 0.9 * SLOTS / IDS_PER_SECOND, key=self.frame_s
        )

    def first_sound_s(self, streams: int) -> float:
        """From the text to the first exact sound of a stream beside `streams - 1` others; network
        and queues not counted."""
        flops = self.gpu.fp8 if self.fp8 else self.gpu.bf16
        prefill = 2 * self.a.prompt * self.model.body / (self.a.compute_share * 1e12 * flops)
        step = self.frame_s(streams) / SLOTS
        return prefill + FIRST_AUDIO_IDS * step + self.codec_s(min(streams, self.costs.lanes))


def with_everything(
    gpus: Sequence[Gpu], config: dict[str, Any], a: Assumptions
) -> list[dict[str, Any]]:
    costs = Costs()
    model = Model.of(config, restricted=True)
    rows: list[dict[str, Any]] = []
    for gpu in gpus:
        for fp8 in (False, True):
            row: dict[str, Any] = {"gpu": gpu.name, "weights": "fp8" if fp8 else "bf16"}
            for how in CODEC:
                for sampler, columns in (("whole", COLUMNS_WHOLE), ("compact", COLUMNS_COMPACT)):
                    setup = Setup(gpu, model, fp8, a, costs, how, columns)
                    most = setup.streams_in_time()
                    alone = setup.first_sound_s(1)
                    full = setup.first_sound_s(max(1, most))
                    row[f"{how}, {sampler}"] = {
                        "streams": most, "first_ms_alone": 1e3 * alone, "first_ms_full": 1e3 * full,
                    }  # fmt: skip
            rows.append(row)
    print(f"\nWith sampler, host and codec; restricted head; {asdict(costs)}")
    names = [f"{how}, {sampler}" for how in CODEC for sampler in ("whole", "compact")]
    print(
        f"| GPU | weights | {' | '.join(names)} |  (streams in real time; first sound alone /"
        " full, ms)"
    )
    print("|---" * (2 + len(names)) + "|")
    for row in rows:
        cells = " | ".join(
            f"{row[n]['streams']}; {row[n]['first_ms_alone']:.0f} / {row[n]['first_ms_full']:.0f}"
            if row[n]["streams"] else "0" for n in names
        )  # fmt: skip
        print(f"| {row['gpu']} | {row['weights']} | {cells} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add_save_option(parser)
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

    print("CALCULATED, not measured. The language model alone:")
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
            f"| {row['gpu']} | {row['weights']} | {row['head']} | {row['gb_per_step']:.2f} |"
            f" {speeds} | {row['real_time_streams']} | {row['first_audio_ms']:.0f} |"
        )
    everything = with_everything(gpus, config, a)
    save(
        "roofline",
        {
            "calculated": True, "assumptions": asdict(a), "costs": asdict(Costs()),
            "rows": rows, "with_codec_sampler_host": everything,
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
