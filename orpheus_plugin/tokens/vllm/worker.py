"""Our methods in vLLM's worker, called by `AsyncLLM.collective_rpc` between two steps.

vLLM adds this class to the bases of its worker (`worker_extension_cls`), so every name here begins
with `orpheus_`.
"""

from __future__ import annotations

from typing import Any


class OrpheusWorker:
    """Mixed into vLLM's worker, in the process that has the model."""

    model_runner: Any
    vllm_config: Any

    def orpheus_use_sampler(self, kind: str, audio_base: int, stop: int) -> str:
        """Draw with the "compact" sampler (see `sampler`) or with vLLM's own, "whole". Returns the
        one in use.

        The compact sampler needs the restricted head; without it vLLM's own stays in use.
        """
        from orpheus_plugin.tokens.vllm.model import OrpheusForCausalLM
        from orpheus_plugin.tokens.vllm.sampler import CompactSampler, CompactSamplerV2

        runner = self.model_runner
        model = runner.get_model()
        if not isinstance(model, OrpheusForCausalLM):
            return "whole"
        if isinstance(runner.sampler, CompactSampler | CompactSamplerV2):
            runner.sampler = runner.sampler.whole
        layout = model.use_compact_logits(kind == "compact", audio_base, stop)
        if layout is None:
            return "whole"
        second = self.vllm_config.use_v2_model_runner
        runner.sampler = (CompactSamplerV2 if second else CompactSampler)(runner, layout)
        return "compact"
