"""Samplers for vLLM that draw from the codes that may follow, instead of from the whole vocabulary.

A model that keeps Orpheus' frames can draw 4,096 codes of one slot and, between two frames, the
stop id. vLLM's samplers work on rows of 156,940 logits: on a CPU most of a step is sorting and
counting columns that are -inf. These samplers take the logits of the restricted head, pick the
columns of each request's slot (the slot mask), apply temperature, penalty, top_p, top_k, min_p and
seeds to these 4,097 columns with vLLM's own kernels (FlashInfer's where vLLM uses them), and return
ids of the whole vocabulary.

The probabilities of ids do not change, but the ids that a seed draws do, because random numbers
belong to columns. Requests with options that are written in ids (logit_bias, bad words, logprobs,
allowed ids, other logits processors) go to vLLM's own sampler, together with their whole batch.

vLLM 0.32 has two runners. `CompactSampler` is for the first (CPUs, and GPUs with
VLLM_USE_V2_MODEL_RUNNER=0), `CompactSamplerV2` for the second (GPUs). The second is tested with
vLLM's kernels in Triton's interpreter; on a GPU it failed at the first id, for a reason that is
gone, and has not run there since.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from orpheus_plugin.tokens.vocabulary import CODES, SLOTS

Tensor = torch.Tensor

STOP = CODES
"""Column of the stop id; columns 0..4095 are the codes of a row's slot."""
COLUMNS = CODES + 1


@dataclass(frozen=True, slots=True)
class Layout:
    """The ids of the columns of compact logits.

    Attributes:
        first, end: the rows of the head that were computed: column c of compact logits is id
            `first + c`.
        size: ids of the whole vocabulary.
        audio_base, stop: ids of slot 0, code 0, and of the end of speech.
    """

    first: int
    end: int
    size: int
    audio_base: int
    stop: int

    def __post_init__(self) -> None:
        if not (
            self.first <= self.audio_base
            and self.audio_base + SLOTS * CODES <= min(self.end, self.size)
            and self.first <= self.stop < self.end
        ):
            raise ValueError(f"the computed logits do not contain all audio ids: {self}")

    def whole(self, logits: Tensor) -> Tensor:
        """Compact logits [n, end - first] -> [n, size], -inf elsewhere."""
        end = min(self.end, self.size)
        out = logits.new_full((logits.shape[0], self.size), float("-inf"))
        out[:, self.first : end] = logits[:, : end - self.first]
        return out

    def of_slots(self, logits: Tensor, slots: Tensor) -> Tensor:
        """Compact logits and the slot of each row, int64 [n] -> fp32 [n, 4097]; the stop id is -inf
        but in slot 0."""
        rows = logits.shape[0]
        base = self.audio_base - self.first
        codes = logits[:, base : base + SLOTS * CODES].view(rows, SLOTS, CODES)
        out = logits.new_empty((rows, COLUMNS), dtype=torch.float32)
        out[:, :CODES] = codes[torch.arange(rows, device=slots.device), slots]
        stop = logits[:, self.stop - self.first].float()
        out[:, STOP] = stop.masked_fill(slots != 0, float("-inf"))
        return out

    def ids(self, columns: Tensor, slots: Tensor) -> Tensor:
        """Columns drawn, int64 [n] -> ids, int64 [n]."""
        codes = self.audio_base + CODES * slots + columns
        return torch.where(columns == STOP, self.stop, codes)


def penalise(logits: Tensor, seen: Tensor, penalty: Tensor) -> None:
    """The repetition penalty of vLLM and transformers, in place: positive logits are divided,
    negative ones multiplied.

    logits fp32 [n, 4097]; seen bool [n, 4096], codes drawn before in this slot; penalty fp32 [n].
    """
    codes = logits[:, :CODES]
    scale = penalty.unsqueeze(1)
    codes.copy_(torch.where(seen, torch.where(codes > 0, codes / scale, codes * scale), codes))


class CompactSampler:
    """Replaces vLLM's sampler in its first runner.

    Args:
        runner: vLLM's GPUModelRunner (or the CPU's, which is one).
        layout: the logits that its model computes.
    """

    def __init__(self, runner: Any, layout: Layout) -> None:
        from vllm.v1.sample.logits_processor import builtin

        self._runner = runner
        self.whole = runner.sampler
        self._layout = layout
        self._min_p = builtin.MinPLogitsProcessor
        self._min_tokens = builtin.MinTokensLogitsProcessor
        self._bias = builtin.LogitBiasLogitsProcessor

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)

    def __call__(self, logits: Tensor, sampling_metadata: Any, **options: Any) -> Any:
        """logits [n, end - first] of the runner's n requests -> vLLM's SamplerOutput.

        Cost on the host: a pass over the slot's codes of every request, some 3 us each.
        """
        from vllm.v1.outputs import SamplerOutput

        batch = self._runner.input_batch
        if options or len(logits) != batch.num_reqs or not self._plain(batch, sampling_metadata):
            return self.whole(self._layout.whole(logits), sampling_metadata, **options)
        drawn: Sequence[Sequence[int]] = batch.req_output_token_ids
        places = [len(ids) % SLOTS for ids in drawn]
        slots = _to(torch.tensor(places), logits.device)
        rows = self._layout.of_slots(logits, slots)
        if not sampling_metadata.no_penalties:
            seen = self._seen(drawn, places, logits.device)
            penalise(rows, seen, sampling_metadata.repetition_penalties)
        if sampling_metadata.top_k is not None:
            top_k = sampling_metadata.top_k.clamp(max=COLUMNS)
            sampling_metadata = replace(sampling_metadata, top_k=top_k)
        columns, _ = self.whole.sample(rows, sampling_metadata)
        ids = self._layout.ids(columns.long(), slots)
        return SamplerOutput(
            sampled_token_ids=ids.to(torch.int32).unsqueeze(-1), logprobs_tensors=None
        )

    def _plain(self, batch: Any, meta: Any) -> bool:
        """Whether no request of the batch has an option that is written in ids."""
        if (
            meta.max_num_logprobs is not None
            or meta.logprob_token_ids
            or meta.allowed_token_ids_mask is not None
            or meta.bad_words_token_ids
            or batch.frequency_penalties_reqs
            or batch.presence_penalties_reqs
        ):
            return False
        holder = meta.thinking_budget_state_holder
        if holder is not None and holder.has_tracked_requests():
            return False
        return all(
            (type(step) is self._min_tokens and not step.min_toks)
            or (type(step) is self._bias and not step.biases)
            for step in meta.logitsprocs.non_argmax_invariant
        ) and all(type(step) is self._min_p for step in meta.logitsprocs.argmax_invariant)

    def _seen(
        self, drawn: Sequence[Sequence[int]], places: Sequence[int], device: torch.device
    ) -> Tensor:
        """bool [n, 4096]: the codes that each request has drawn in the slot of its next id."""
        rows: list[int] = []
        columns: list[int] = []
        for row, (ids, slot) in enumerate(zip(drawn, places, strict=True)):
            before = ids[slot::SLOTS]
            rows += [row] * len(before)
            columns += before
        index = np.array((rows, columns), np.int64)
        first = self._layout.audio_base + CODES * np.array(places, np.int64)
        index[1] -= first[index[0]]
        # An id that is not known yet (-1) or was not of its slot has no column.
        index = index[:, (index[1] >= 0) & (index[1] < CODES)]
        places_seen = _to(torch.from_numpy(index), device)
        seen = torch.zeros((len(drawn), CODES), dtype=torch.bool, device=device)
        seen[places_seen[0], places_seen[1]] = True
        return seen


class CompactSamplerV2:
    """Replaces vLLM's sampler in its second runner. Everything stays on the GPU, without
    synchronisation.

    Args:
        runner: vLLM's GPUModelRunner of `vllm.v1.worker.gpu`.
        layout: the logits that its model computes.
    """

    def __init__(self, runner: Any, layout: Layout) -> None:
        self.whole = runner.sampler
        self._layout = layout
        self._columns = torch.arange(CODES, device=runner.device)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)

    def __call__(self, logits: Tensor, input_batch: Any) -> Any:
        """logits [n, end - first], one row for each request -> vLLM's SamplerOutput."""
        from vllm.v1.worker.gpu.input_batch import get_num_sampled_and_rejected
        from vllm.v1.worker.gpu.sample.output import SamplerOutput

        requests = input_batch.idx_mapping_np
        if len(logits) != len(requests) or not self._plain(requests):
            return self.whole(self._layout.whole(logits), input_batch)
        whole = self.whole
        index = input_batch.expanded_idx_mapping
        position = input_batch.positions[input_batch.logits_indices]
        slots = self.slots(position, whole.req_states.prompt_len.gpu[index])
        rows = self._layout.of_slots(logits, slots)
        penalties = whole.penalties_state
        if np.any(penalties.use_penalty[requests]):
            seen = self.seen(penalties.output_bin_counts, index, slots)
            penalise(rows, seen, penalties.repetition_penalty.gpu[index])
        states = whole.sampling_states
        states.apply_temperature(rows, index, requests)
        states.apply_min_p(rows, index, requests)
        top_k, top_p = states.get_top_k_top_p(index, requests)
        fused = (
            (whole.use_flashinfer or whole.use_xpu_sampler)
            and not (top_k is None and top_p is None)
            and not states.any_greedy(requests)
            and not states.any_explicit_seed(requests)
        )
        if top_k is not None:
            top_k = top_k.clamp(max=COLUMNS)
        columns, _ = whole._sample_random(rows, index, requests, position, top_k, top_p, fused)
        ids = self._layout.ids(columns.view(-1).long(), slots)
        sampled, rejected = get_num_sampled_and_rejected(
            input_batch.seq_lens.new_ones(input_batch.num_reqs),
            input_batch.seq_lens,
            input_batch.cu_num_logits,
            input_batch.idx_mapping,
            whole.req_states.prefill_len.gpu,
        )
        return SamplerOutput(
            sampled_token_ids=ids.view(-1, 1),
            logprobs_tensors=None,
            num_nans=None,
            num_sampled=sampled,
            num_rejected=rejected,
            sampling_mask_tensors=None,
        )

    def slots(self, position: Tensor, prompt_length: Tensor) -> Tensor:
        """Slot of the next id, int64 [n], from the position of the last id of each request."""
        return (position.long() + 1 - prompt_length.long()) % SLOTS

    def seen(self, counts: Tensor, requests: Tensor, slots: Tensor) -> Tensor:
        """bool [n, 4096] from vLLM's counts of drawn ids, int [requests, size]. No copy of whole
        rows."""
        start = requests.long() * counts.shape[1] + self._layout.audio_base + CODES * slots
        return counts.view(-1)[start.unsqueeze(1) + self._columns] > 0

    def _plain(self, requests: Any) -> bool:
        """Whether no request of the batch has an option that is written in ids."""
        whole = self.whole
        bias, penalties, words, *others = whole.logits_processors
        thinking = whole.thinking_budget_state
        return not (
            others
            or whole.compute_nans
            or whole.return_sampling_mask
            or whole.trace_replay_state is not None
            or whole.get_logprobs_dims(requests) is not None
            or np.any(bias.use_logit_bias[requests])
            or np.any(words.num_bad_words.np[requests])
            or np.any(penalties.frequency_penalty.np[requests])
            or np.any(penalties.presence_penalty.np[requests])
            or (thinking.enabled and np.any(thinking.use_thinking_budget[requests]))
        )


def _to(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to a GPU from pinned memory, without waiting."""
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)
