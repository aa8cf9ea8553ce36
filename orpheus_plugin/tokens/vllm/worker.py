"""Our methods in vLLM's worker, called by `AsyncLLM.collective_rpc` between two steps.

vLLM adds this class to the bases of its worker (`worker_extension_cls`), so every name here begins with `orpheus_`.
"""

from __future__ import annotations

from typing import Any


class OrpheusWorker:
    """Mixed into vLLM's worker, in the process that has the model."""

    model_runner: Any
    vllm_config: Any

    def orpheus_compact_sampler(self, audio_base: int, stop: int) -> str:
        """Draw from the codes of a slot only (see `sampler`). Returns the name of the sampler now in use."""
        from orpheus_plugin.tokens.vllm.model import OrpheusForCausalLM
        from orpheus_plugin.tokens.vllm.sampler import CompactSampler, CompactSamplerV2

        runner = self.model_runner
        model = runner.get_model()
        layout = (
            model.compact_logits(audio_base, stop)
            if isinstance(model, OrpheusForCausalLM)
            else None
        )
        if layout is not None:
            kind = CompactSamplerV2 if self.vllm_config.use_v2_model_runner else CompactSampler
            runner.sampler = kind(runner, layout)
        return self.orpheus_sampler()

    def orpheus_sampler(self) -> str:
        """The name of the sampler in use."""
        return type(self.model_runner.sampler).__name__
