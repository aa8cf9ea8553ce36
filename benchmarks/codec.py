"""What a frame of audio (85.3 ms) costs to decode:
``python benchmarks/codec.py`` (or ``--lanes 1,16 --rounds 3``).

One thread, random weights, noise on, so many streams in one batch: the full-size SNAC decoder
(19.8M parameters), or with ``--size bundled`` one of the bundled voice's shape.

* a  peers    the `snac` package as other Orpheus servers run it: the last 28 tokens (4 frames)
  decoded anew for each frame;
* b  ours     the exact streaming step, 4 rows of codes a stream; also with 1 row a step (first
              audio) and 16 (offline): the compiled one on a CPU, the one in torch on a GPU;
* t  torch    the step in torch with 4 rows, beside the compiled one;
* c  one-shot the `snac` package on whole utterances at once: the least work there is, all of it at
  the end;
* d  one-shot of the same kind with our own layers: how much of c - b is layout and packing, and
  what streaming costs.

Figures are milliseconds of CPU time per frame and stream: on an idle machine that is wall time, and
on a shared one it is what other processes change least. All take turns within a round; the median
over the rounds counts. Small batches, whose rounds are short, have more of them.

On a GPU (``--device cuda``) they are wall time, from codes in host memory to samples in host
memory; b runs captured graphs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from snac import SNAC

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.report import add_save_option, save  # noqa: E402
from orpheus_plugin.codec.config import SnacConfig  # noqa: E402
from orpheus_plugin.codec.cpu.decoder import CpuDecoder  # noqa: E402
from orpheus_plugin.codec.step import StreamingDecoder  # noqa: E402
from orpheus_plugin.codec.torch.step import TorchDecoder  # noqa: E402
from orpheus_plugin.codec.weights import SnacWeights  # noqa: E402
from tests.support.codecs import FULL_SIZE  # noqa: E402

BUNDLED = ROOT / "orpheus_plugin" / "mini" / "snac"

WINDOW_FRAMES = 4
STEPS = {"b_ours": 4, "b_one_row": 1, "b_offline": 16}


def contenders(
    snac: SNAC,
    streaming: StreamingDecoder,
    torch_step: TorchDecoder,
    lanes: int,
    frames: int,
    device: str,
) -> dict[str, tuple[Callable[[], object], float]]:
    """By name: what to run, and how many frames of each stream it makes."""
    rng = np.random.default_rng(0)

    def codes(count: int) -> list[torch.Tensor]:
        return [
            torch.from_numpy(rng.integers(0, 4096, (lanes, count * k))).to(device)
            for k in (1, 2, 4)
        ]

    window, utterance = codes(WINDOW_FRAMES), codes(frames)
    running, beside = (
        [step.lane(slot, seed=slot) for slot in range(lanes)] for step in (streaming, torch_step)
    )
    for lane in (*running, *beside):
        lane.position = 1000  # somewhere in an utterance

    def peers() -> object:
        # They keep the second of the four frames.
        return snac.decode(window)[:, :, 2048:4096].cpu().numpy()

    runs: dict[str, tuple[Callable[[], object], float]] = {"a_peers": (peers, 1.0)}
    for name, n in STEPS.items():
        step_codes = rng.integers(0, 4096, (lanes, n, 3))
        runs[name] = partial(streaming.step, running, step_codes), n / 4
    step_codes = rng.integers(0, 4096, (lanes, 4, 3))
    runs["t_torch"] = partial(torch_step.step, beside, step_codes), 1.0
    runs["c_one_shot"] = (lambda: snac.decode(utterance).cpu().numpy()), float(frames)
    whole = rng.integers(0, 4096, (lanes, 4 * frames, 3))
    runs["d_one_shot_ours"] = (lambda: streaming.step(running, whole)), float(frames)
    return runs


def measure(size: str, lanes: int, rounds: int, frames: int, device: str) -> dict[str, float]:
    torch.manual_seed(0)
    config = FULL_SIZE if size == "full" else json.loads((BUNDLED / "config.json").read_text())
    snac = SNAC(**config).eval()
    state = {name: tensor.numpy() for name, tensor in snac.state_dict().items()}
    weights = SnacWeights.from_state(SnacConfig.from_dict(config), state)
    torch_step = TorchDecoder(weights, slots=lanes, device=device)
    streaming = CpuDecoder(weights, slots=lanes) if device == "cpu" else torch_step
    clock = time.process_time
    if device != "cpu":
        clock = time.perf_counter
        streaming.warm_up([(lanes, n) for n in STEPS.values()])
    runs = contenders(snac.to(device), streaming, torch_step, lanes, frames, device)
    taken: dict[str, list[float]] = {name: [] for name in runs}
    with torch.inference_mode():
        for turn in range(rounds + 1):  # the first one warms up
            for name, (run, made) in runs.items():
                repeats = max(1, round(4 / lanes / made))
                start = clock()
                for _ in range(repeats):
                    run()
                if turn:
                    spent = clock() - start
                    taken[name].append(spent * 1000 / repeats / made / lanes)
    return {name: statistics.median(values) for name, values in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_save_option(parser)
    parser.add_argument("--lanes", default="1,4,8,16,32", help="streams in a batch")
    parser.add_argument("--rounds", type=int, default=2, help="of the largest batches")
    parser.add_argument(
        "--frames", type=int, default=24, help="of the one-shot utterance; fewer in large batches"
    )
    parser.add_argument("--size", default="full", choices=["full", "bundled"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", default="codec", help="name of the file of results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    heads = (
        "streams",
        "a peers",
        "b ours",
        "1 row",
        "16 lat.",
        "t torch",
        "c 1-shot",
        "d ours",
        "a/b",
        "t/b",
        "b/c",
        "b/d",
    )
    kind = "CPU" if options.device == "cpu" else options.device
    print(
        f"milliseconds of {kind} per frame and stream\n" + "".join(f"{head:>10}" for head in heads)
    )
    for lanes in (int(part) for part in options.lanes.split(",")):
        rounds = options.rounds * max(1, 8 // lanes)
        figures = measure(
            options.size, lanes, rounds, min(options.frames, max(1, 192 // lanes)), options.device
        )
        ours = figures["b_ours"]
        ratios = {
            "a_over_b": figures["a_peers"] / ours,
            "t_over_b": figures["t_torch"] / ours,
            "b_over_c": ours / figures["c_one_shot"],
            "b_over_d": ours / figures["d_one_shot_ours"],
        }
        rows.append({"streams": lanes} | figures | ratios)
        print(
            f"{lanes:>10}"
            + "".join(f"{value:>10.2f}" for value in (*figures.values(), *ratios.values())),
            flush=True,
        )
    save(
        options.out,
        {
            "size": options.size,
            "device": options.device,
            "unit": "ms of CPU time (wall time on a GPU) per 85.3 ms frame and stream, one thread",
            "wanted": {"a_over_b": "4 at 1 stream, 5 at 16", "b_over_c": "at most 1.15 at 16"},
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()
