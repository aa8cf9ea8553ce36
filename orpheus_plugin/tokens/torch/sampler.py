"""Drawing ids for a batch of streams: exact temperature, nucleus and repetition penalty, and a seed
for each stream."""

from __future__ import annotations

import secrets

import numpy as np
import torch

from orpheus_plugin.tokens.base import SamplingParams
from orpheus_plugin.tokens.torch.llama import SPARE, STOP
from orpheus_plugin.tokens.vocabulary import SLOTS

Tensor = torch.Tensor

_ROUNDS = 4  # of rejection before the rows still open are sorted
_AHEAD = 64  # steps for which random numbers are drawn at once


class Sampler:
    """SamplingParams state of a pool of streams and one vectorised draw for its first B streams.
    Not thread-safe.

    The nucleus is drawn from without sorting: draw from all, keep what lies in the nucleus (the
    mass of what is more probable stays below top_p), and where it does not, draw again among the
    more probable. What is kept has exactly the nucleus' distribution; ids as probable as its last
    one belong to it. A batch takes about 1.3 rounds.

    The repetition penalty (as in transformers: positive logits divided, negative ones multiplied)
    is over the ids drawn before. Slots have disjoint ids, so only the codes drawn in the same slot
    matter.
    """

    def __init__(self, streams: int, context: int, device: torch.device) -> None:
        self._device = device
        self._temperature = torch.ones(streams, 1, device=device)
        self._top_p = torch.ones(streams, 1, device=device)
        self._penalty = torch.ones(streams, 1, device=device)
        self._greedy = torch.zeros(streams, dtype=torch.bool, device=device)
        self._uniform = torch.zeros(streams, _AHEAD, _ROUNDS + 1, device=device)
        frames = context // SLOTS + 2
        self._drawn = torch.full((streams, SLOTS, frames), SPARE, device=device)
        self._random: list[np.random.Generator | None] = [None] * streams
        self._options: list[SamplingParams] = [SamplingParams()] * streams
        self._index = torch.arange(streams, device=device)

    def join(self, stream: int, options: SamplingParams) -> None:
        """Set a new request's options at a stream's place."""
        seed = secrets.randbits(64) if options.seed is None else options.seed % 2**64
        self._options[stream] = options
        self._random[stream] = np.random.Generator(np.random.Philox(seed))
        self._greedy[stream] = options.temperature == 0
        self._temperature[stream] = options.temperature or 1.0
        # 2.0: rounding cannot cut the tail.
        self._top_p[stream] = options.top_p if options.top_p < 1 else 2.0
        self._penalty[stream] = options.repetition_penalty
        self._drawn[stream] = SPARE

    def move(self, source: int, target: int) -> None:
        """Move a stream's state to another place."""
        for state in (
            self._temperature,
            self._top_p,
            self._penalty,
            self._greedy,
            self._uniform,
            self._drawn,
        ):
            state[target] = state[source]
        self._options[target] = self._options[source]
        self._random[target], self._random[source] = self._random[source], None

    def draw(self, logits: Tensor, counts: list[int]) -> Tensor:
        """Draw one column for each row.

        Args:
            logits: fp32 [B, 4098] as from Llama.logits; changed in place.
            counts: ids drawn before, of each row; the row's slot is its count modulo 7.

        Returns: int64 [B], a code 0..4095 or STOP.
        """
        size = len(counts)
        options = self._options[:size]
        count = torch.tensor(counts, device=self._device)
        slots, frames = count % SLOTS, count // SLOTS
        rows = self._index[:size]
        longest = max(counts) // SLOTS
        if longest and any(o.repetition_penalty != 1 for o in options):
            before = self._drawn[rows, slots, :longest]
            penalty = self._penalty[:size]
            value = logits.gather(1, before)
            logits.scatter_(1, before, torch.where(value > 0, value / penalty, value * penalty))
        greedy = sum(o.temperature == 0 for o in options)
        if greedy == size:
            chosen = logits.argmax(-1)
        else:
            self._refill(counts)
            uniform = self._uniform[rows, count % _AHEAD]
            probability = (logits / self._temperature[:size]).softmax(-1)
            plain = all(o.top_p >= 1 for o in options)
            chosen = _nucleus(probability, None if plain else self._top_p[:size], uniform)
            if greedy:
                chosen = torch.where(self._greedy[:size], logits.argmax(-1), chosen)
        self._drawn[rows, slots, frames] = chosen
        return chosen

    def _refill(self, counts: list[int]) -> None:
        for stream, count in enumerate(counts):
            source = self._random[stream]
            if count % _AHEAD == 0 and source is not None:
                fresh = source.random((_AHEAD, _ROUNDS + 1), dtype=np.float32)
                self._uniform[stream] = torch.from_numpy(fresh)


def _nucleus(probability: Tensor, top_p: Tensor | None, uniform: Tensor) -> Tensor:
    """Draw a column of each row of `probability` ([B, n], rows sum to 1) within its nucleus.
    `uniform`: [B, rounds + 1]."""
    chosen = _inverse(probability, uniform[:, :1])
    if top_p is None:
        return chosen[:, 0]
    open_rows: Tensor | None = None
    for turn in range(1, _ROUNDS + 1):
        found = chosen if open_rows is None else chosen[open_rows]
        more_probable = probability * (probability > probability.gather(1, found))
        outside = (more_probable.sum(-1, keepdim=True) >= top_p)[:, 0].nonzero()[:, 0]
        if not len(outside):
            return chosen[:, 0]
        open_rows = outside if open_rows is None else open_rows[outside]
        probability, top_p, uniform = more_probable[outside], top_p[outside], uniform[outside]
        if turn < _ROUNDS:
            chosen[open_rows] = _inverse(probability, uniform[:, turn : turn + 1])
    assert open_rows is not None
    falling, order = probability.sort(-1, descending=True)
    within = falling.cumsum(-1) - falling < top_p
    place = _inverse(falling * within, uniform[:, _ROUNDS:])
    chosen[open_rows] = order.gather(1, place)
    return chosen[:, 0]


def _inverse(weights: Tensor, uniform: Tensor) -> Tensor:
    """The column at which the running sum of each row passes `uniform` of its total: int64 [B,
    1]."""
    running = weights.cumsum(-1)
    place = torch.searchsorted(running, uniform.clamp(max=1 - 1e-6) * running[:, -1:], right=True)
    return place.clamp_(max=STOP)
