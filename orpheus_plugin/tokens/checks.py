"""Checks of a request before it reaches an engine: one bad request can end an engine for all
requests."""

from __future__ import annotations

import math
from collections.abc import Sequence

from orpheus_plugin.errors import InvalidOptions
from orpheus_plugin.tokens.base import SamplingParams


def checked_prompt(
    prompt_ids: Sequence[int], vocabulary_size: int, context: int | None = None
) -> list[int]:
    """The prompt as plain ints. Raises InvalidOptions if it is empty, has an id outside
    0..vocabulary_size - 1, or leaves no room in a context of `context` ids."""
    prompt = [int(i) for i in prompt_ids]
    if not prompt:
        raise InvalidOptions("the prompt is empty")
    if min(prompt) < 0 or max(prompt) >= vocabulary_size:
        raise InvalidOptions(
            f"the prompt has ids outside 0..{vocabulary_size - 1}: {min(prompt)}..{max(prompt)}"
        )
    if context is not None and len(prompt) >= context:
        raise InvalidOptions(
            f"a prompt of {len(prompt)} ids leaves no room in a context of {context}"
        )
    return prompt


def check_sampling(sampling: SamplingParams) -> None:
    """Raises InvalidOptions for a value outside the range that `SamplingParams` gives."""
    if not (math.isfinite(sampling.temperature) and sampling.temperature >= 0):
        raise InvalidOptions(f"temperature {sampling.temperature} is not 0 or more")
    if not 0 < sampling.top_p <= 1:
        raise InvalidOptions(f"top_p {sampling.top_p} is not in (0, 1]")
    if not (math.isfinite(sampling.repetition_penalty) and sampling.repetition_penalty > 0):
        raise InvalidOptions(f"repetition_penalty {sampling.repetition_penalty} is not above 0")
    if sampling.max_tokens < 1:
        raise InvalidOptions(f"max_tokens {sampling.max_tokens} is below 1")
