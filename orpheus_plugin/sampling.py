"""How a model's tokens are drawn: shared by the model catalog and the token engines."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling parameters. Defaults are those of Orpheus 3B, which needs a repetition penalty >=
    1.1 to be stable (canopyai/Orpheus-TTS README, "Prompting").

    Attributes:
        temperature: 0 is greedy.
        top_p: nucleus mass, in (0, 1].
        repetition_penalty: 1 is none; over ids already generated (the prompt holds no audio ids).
        max_tokens: ceiling on generated ids; reaching it finishes with "length".
        seed: None draws a fresh one; equal seeds give equal ids on the same engine for single
            requests.
    """

    temperature: float = 0.6
    top_p: float = 0.8
    repetition_penalty: float = 1.1
    max_tokens: int = 2048
    seed: int | None = None
