"""A request's parameters for vLLM, and the meaning of vLLM's answers."""

from __future__ import annotations

import logging
from typing import Any

from orpheus_plugin.errors import GenerationFailed, InvalidOptions
from orpheus_plugin.tokens.base import FinishReason, SamplingParams
from orpheus_plugin.tokens.vocabulary import Vocabulary

logger = logging.getLogger(__name__)


def sampling_params(
    sampling: SamplingParams, vocabulary: Vocabulary, prompt_length: int, context: int
) -> Any:
    """vLLM's own SamplingParams. Raises InvalidOptions for what vLLM refuses."""
    from vllm import sampling_params as theirs

    try:
        return theirs.SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            repetition_penalty=sampling.repetition_penalty,
            max_tokens=min(sampling.max_tokens, context - prompt_length),
            # With a seed in any request, vLLM does not use its fused GPU sampler in the whole
            # step.
            seed=sampling.seed,
            stop_token_ids=[vocabulary.end_of_speech],
            ignore_eos=True,
            detokenize=False,
            output_kind=theirs.RequestOutputKind.DELTA,
        )
    except ValueError as error:
        raise InvalidOptions(f"sampling options: {error}") from error


def context_of(engine: Any) -> int:
    """Ids of prompt and speech together that a request may have."""
    return int(engine.model_config.max_model_len)


def finish_reason(reason: str | None) -> FinishReason:
    if reason in ("stop", "length", "abort"):
        return reason  # type: ignore[return-value]  # one of the literals
    raise GenerationFailed(f"vLLM ended the request with {reason!r}")


def coarsen(engine: Any, request_id: str, interval: int) -> None:
    """Make vLLM return this request's ids in groups of `interval` from now on.

    vLLM fixes the interval when a request is added. Its output side runs in this process and on
    this event loop, so its bookkeeping can be changed between two outputs. If another version of
    vLLM keeps it elsewhere, ids come one by one.
    """
    if interval <= 1:
        return
    try:
        processor = engine.output_processor
        for internal_id in processor.external_req_ids.get(request_id, ()):
            state = processor.request_states[internal_id]
            sent = state.detokenizer.num_output_tokens()
            state.sent_tokens_offset, state.stream_interval = sent, interval
    except (AttributeError, KeyError):
        logger.debug("vLLM's stream interval cannot be changed within a request", exc_info=True)
