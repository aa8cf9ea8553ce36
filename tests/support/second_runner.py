"""vLLM's sampler for GPUs, that of its second runner, on a CPU: its Triton kernels run in Triton's
interpreter, which a process chooses before it imports them. As a program this draws ids and prints
them as JSON, `compact` by CompactSamplerV2, `whole` by vLLM's own sampler with the ids of other
slots held down."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace
from typing import Any

os.environ |= {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "VLLM_LOGGING_LEVEL": "ERROR"}

import numpy as np
import torch
from vllm import platforms

is_version = platforms.vllm_version_matches_substr
platforms.vllm_version_matches_substr = lambda part: False  # vLLM's CPU build would refuse Triton
import vllm.triton_utils  # noqa: E402, F401

platforms.vllm_version_matches_substr = is_version

from vllm.sampling_params import SamplingParams  # noqa: E402
from vllm.utils import torch_utils  # noqa: E402
from vllm.v1.sample.ops import topk_topp_sampler  # noqa: E402
from vllm.v1.worker.gpu import buffer_utils  # noqa: E402
from vllm.v1.worker.gpu.sample.sampler import Sampler  # noqa: E402
from vllm.v1.worker.gpu.states import RequestState  # noqa: E402

from orpheus_plugin.tokens.vllm.sampler import CompactSamplerV2, Layout  # noqa: E402
from orpheus_plugin.tokens.vocabulary import CODES, SLOTS  # noqa: E402

BASE, STOP, MARK = 330, 322, 323
LAYOUT = Layout(first=320, end=29_056, size=29_010, audio_base=BASE, stop=STOP)
CPU = torch.device("cpu")
PROMPT = [1, 2, 3, 4, 5]
ROOM = 32
"""Ids that a request has drawn at most."""


class OneMemory:
    """vLLM's UvaBuffer where the GPU's memory is the processor's."""

    def __init__(self, size: Any, dtype: torch.dtype) -> None:
        self.cpu = self._uva = torch.zeros(size, dtype=dtype)
        self.np = self.cpu.numpy()

    def uva(self, n: int | None = None) -> torch.Tensor:
        return self._uva if n is None else self._uva[:n]


buffer_utils.UvaBuffer = OneMemory
torch_utils.is_pin_memory_available = lambda: False
# The interpreter cannot run this kernel; vLLM has the same in torch.
topk_topp_sampler.apply_top_k_top_p_triton = topk_topp_sampler.apply_top_k_top_p_pytorch


class Runner:
    """Requests that have drawn some ids, as vLLM's second runner keeps them. Each has a seed of its
    own."""

    def __init__(self, drawn: list[list[int]], **options: Any) -> None:
        rows = len(drawn)
        config = SimpleNamespace(reasoning_config=None, speculative_config=None)
        self.device = CPU
        self.drawn = drawn
        states = RequestState(rows, len(PROMPT) + ROOM, 64, 0, LAYOUT.size, CPU)
        self.sampler = Sampler(config, rows, LAYOUT.size, CPU, states)
        for number, ids in enumerate(drawn):
            states.add_request(str(number), len(PROMPT), PROMPT + ids, len(PROMPT + ids), ROOM)
            index = states.req_id_to_index[str(number)]
            self.sampler.add_request(index, SamplingParams(seed=number, **options))
        self._index = np.array([states.req_id_to_index[str(n)] for n in range(rows)], np.int32)
        states.apply_staged_writes()
        self.sampler.apply_staged_writes()

    def batch(self) -> Any:
        """vLLM's InputBatch, as far as samplers read it."""
        rows = len(self.drawn)
        lengths = torch.tensor([len(PROMPT + ids) for ids in self.drawn], dtype=torch.int32)
        index = torch.from_numpy(self._index)
        return SimpleNamespace(
            num_reqs=rows,
            idx_mapping=index,
            idx_mapping_np=self._index,
            expanded_idx_mapping=index,
            expanded_local_pos=torch.zeros(rows, dtype=torch.int32),
            cu_num_logits=torch.arange(rows + 1, dtype=torch.int32),
            cu_num_logits_np=np.arange(rows + 1),
            logits_indices=torch.arange(rows),
            positions=lengths.long() - 1,
            input_ids=torch.tensor([(PROMPT + ids)[-1] for ids in self.drawn]),
            seq_lens=lengths,
            seq_lens_cpu_upper_bound=lengths,
        )

    def compact(self, logits: torch.Tensor) -> list[int]:
        return _ids(CompactSamplerV2(self, LAYOUT)(logits.clone(), self.batch()))

    def whole(self, logits: torch.Tensor) -> list[int]:
        rows = LAYOUT.whole(logits)
        for row, ids in enumerate(self.drawn):
            slot = len(ids) % SLOTS
            mask = torch.ones(LAYOUT.size, dtype=torch.bool)
            mask[BASE + CODES * slot : BASE + CODES * (slot + 1)] = False
            mask[STOP] = slot != 0
            rows[row, mask] = -torch.inf
        return _ids(self.sampler(rows, self.batch()))


def _ids(output: Any) -> list[int]:
    assert output.num_sampled.tolist() == [1] * len(output.sampled_token_ids)
    assert not output.num_rejected.any()
    found: list[int] = output.sampled_token_ids[:, 0].tolist()
    return found


def random_ids(lengths: list[int]) -> list[list[int]]:
    chance = np.random.default_rng(0)
    return [
        [BASE + CODES * (place % SLOTS) + int(chance.integers(CODES)) for place in range(length)]
        for length in lengths
    ]


def main() -> dict[str, Any]:
    drawn = random_ids([0, 5, 7, 16])
    noise = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(len(drawn), LAYOUT.end - LAYOUT.first, generator=noise)
    again = logits.clone()  # what was drawn in the slot of the next id is the most likely by far
    for row, ids in enumerate(drawn):
        for earlier in ids[len(ids) % SLOTS :: SLOTS]:
            again[row, earlier - LAYOUT.first] = 20.0
    two = torch.full((100, LAYOUT.end - LAYOUT.first), -99.0)  # codes 6 and 8 of slot 0: 1 to 4
    two[:, BASE + 6 - LAYOUT.first] = 0.0
    two[:, BASE + 8 - LAYOUT.first] = 0.6 * float(np.log(4))
    none: list[list[int]] = [[]] * len(two)
    tried: dict[str, tuple[list[list[int]], torch.Tensor, dict[str, Any]]] = {
        "greedy": (drawn, logits, {"temperature": 0.0}),
        "again": (drawn, again, {"temperature": 0.0}),
        "penalty": (drawn, again, {"temperature": 0.0, "repetition_penalty": 9.0}),
        "top_k": (drawn, logits, {"temperature": 0.6, "top_k": 1}),
        "min_p": (drawn, logits, {"temperature": 0.6, "min_p": 1.0}),
        "bias": (drawn, logits, {"temperature": 0.0, "logit_bias": {MARK: 99.0}}),
        "seeds": (none, two, {"temperature": 0.6}),
        "top_p": (none, two, {"temperature": 0.6, "top_p": 0.7}),
    }
    found: dict[str, Any] = {"drawn": drawn}
    for name, (before, given, options) in tried.items():
        runner = Runner(before, **options)
        found[name] = {"compact": runner.compact(given)}
        if len(before) < 10:  # slow over all ids
            found[name]["whole"] = runner.whole(given)
    return found


if __name__ == "__main__":
    print(json.dumps(main()))
