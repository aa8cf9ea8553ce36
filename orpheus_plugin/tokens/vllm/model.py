"""Orpheus on vLLM with a head that computes only the logits an Orpheus model can use.

Of Orpheus 3B's 156,940 ids, 128,256 are text that never follows `start_of_speech`. Reading their
rows of the head costs 0.79 GB of memory traffic a step in bf16, 12 % of the whole step (21 % with
an fp8 body). This class reads the rows of the control and audio ids. For vLLM's own sampler it
fills the other columns with -inf, so ids, penalties and stop ids stay the same; our sampler (see
`sampler`) takes only the computed columns.

vLLM's processes load it by name (see `plugin`). Importing it imports vLLM. It ran on vLLM 0.32's
CPU and CUDA runners. On an H200 its logits took 62 us for one stream and 68 us for 32, the whole
head's 243 and 259 us (hidden 3072, bf16).
"""

from __future__ import annotations

import logging
from typing import Any

import torch
import torch.nn.functional as F
from vllm.model_executor.layers.linear import UnquantizedLinearMethod
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod
from vllm.model_executor.models.llama import LlamaForCausalLM

from orpheus_plugin.tokens.vllm.plugin import ROWS_KEY
from orpheus_plugin.tokens.vllm.sampler import Layout

logger = logging.getLogger("vllm.orpheus_plugin.head")

_TILE = 64
"""Rows are rounded to this: matrix products with ragged widths miss the fast kernels, and vLLM pads
heads to it."""


class OrpheusForCausalLM(LlamaForCausalLM):  # type: ignore[misc]  # vLLM is untyped here
    """vLLM's Llama, with the head restricted to `config.orpheus_head_rows`.

    Falls back to the whole head, with a warning, if a slice of its weight does not give its logits:
    a quantised head, a head sharded over several GPUs, scaled or converted logits.
    """

    def __init__(self, *, vllm_config: Any, prefix: str = "", **kwargs: Any) -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix, **kwargs)
        self._head_rows = head_rows(getattr(self.config, ROWS_KEY, None), self.config.vocab_size)
        obstacle = self._obstacle()
        if obstacle is not None:
            logger.warning("Orpheus: whole head in use, because %s", obstacle)
            self._head_rows = None
        self._compact = False

    def use_compact_logits(self, use: bool, audio_base: int, stop: int) -> Layout | None:
        """From now on return only the computed logits, in this layout, or whole rows. Returns None
        for whole rows."""
        self._compact = use and self._head_rows is not None
        if not self._compact or self._head_rows is None:
            return None
        return Layout(*self._head_rows, self.config.vocab_size, audio_base, stop)

    def _obstacle(self) -> str | None:
        if self._head_rows is None:
            return f"the configuration has no valid {ROWS_KEY}"
        method = getattr(self.lm_head, "quant_method", None)
        if not isinstance(method, UnquantizedEmbeddingMethod | UnquantizedLinearMethod):
            return f"the head is quantised or absent ({type(method).__name__})"
        if getattr(self.lm_head, "tp_size", 1) != 1:
            return "it is sharded over several devices"
        processor = self.logits_processor
        if processor.scale != 1.0 or processor.soft_cap is not None:
            return "its logits are scaled"
        if processor.head_dtype not in (None, self.lm_head.weight.dtype):
            return "its logits are computed in another dtype"
        return None

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
        """[n, hidden] -> [n, vocab_size], -inf outside the restricted rows; the restricted rows
        alone once compact."""
        if self._head_rows is None:
            logits: torch.Tensor | None = super().compute_logits(hidden_states)
            return logits
        if self._compact:
            first, end = self._head_rows
            return F.linear(hidden_states, self.lm_head.weight[first:end])
        return restricted_logits(
            hidden_states, self.lm_head.weight, self._head_rows, self.config.vocab_size
        )

    def compute_logits_local(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The same, for vLLM's vocabulary-parallel paths (one rank only here)."""
        if self._head_rows is None:
            local: torch.Tensor = super().compute_logits_local(hidden_states)
            return local
        return restricted_logits(
            hidden_states, self.lm_head.weight, self._head_rows, self.config.vocab_size
        )


def head_rows(asked: Any, vocab_size: int) -> tuple[int, int] | None:
    """The rows to compute, widened to whole tiles; None if `asked` is not a pair 0 <= first < end
    <= vocab_size."""
    try:
        first, end = (int(row) for row in asked)
    except (TypeError, ValueError):
        return None
    if not 0 <= first < end <= vocab_size:
        return None
    return first // _TILE * _TILE, -(-end // _TILE) * _TILE


def restricted_logits(
    hidden: torch.Tensor, weight: torch.Tensor, rows: tuple[int, int], vocab_size: int
) -> torch.Tensor:
    """hidden [n, h], weight [>= vocab_size, h] (vLLM pads it) -> logits [n, vocab_size], -inf
    outside `rows`.

    The slice of the weight is a view: tied weights stay tied and nothing is copied.
    """
    first, end = rows
    part = F.linear(hidden, weight[first:end])
    end = min(end, vocab_size)
    logits = part.new_full((part.shape[0], vocab_size), float("-inf"))
    logits[:, first:end] = part[:, : end - first]
    return logits
