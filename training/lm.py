"""The language model: a small Llama that reads letters and writes Orpheus frames.

The exported file is a plain Llama with one tied table of 28,746 rows. In training the rows of the
audio tokens are sums of a few learned parts (phoneme + remaining time + slot, and so on), because
that is what they mean; all rows without a meaning share one learned vector. With sums, the softmax
over the *whole* vocabulary is cheap and exact: the partition function of a sum factorises. So the
model learns the order of the slots from the first step.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training import vocabulary as v
from training.codes import LETTERS, LEVELS, PHASES, PHONEMES, PITCHES, REMAINING, ROWS, SECOND


@dataclass(frozen=True)
class Size:
    """Shape of the model."""

    width: int = 256
    layers: int = 6
    heads: int = 4
    inner: int = 688
    theta: float = 10000.0
    norm_eps: float = 1e-5

    def as_dict(self) -> dict[str, Any]:
        """For checkpoints."""
        return asdict(self)


class Block(nn.Module):
    """One Llama layer: attention with rotary positions, then SwiGLU."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.heads = size.heads
        self.eps = size.norm_eps
        self.norm1 = nn.Parameter(torch.ones(size.width))
        self.norm2 = nn.Parameter(torch.ones(size.width))
        self.q = nn.Linear(size.width, size.width, bias=False)
        self.k = nn.Linear(size.width, size.width, bias=False)
        self.v = nn.Linear(size.width, size.width, bias=False)
        self.o = nn.Linear(size.width, size.width, bias=False)
        self.gate = nn.Linear(size.width, size.inner, bias=False)
        self.up = nn.Linear(size.width, size.inner, bias=False)
        self.down = nn.Linear(size.inner, size.width, bias=False)

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        guided: int = 0,
        cache: list[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """``[B, T, width]`` to the same; with ``guided`` also the attention of the first heads."""
        batch, steps, width = x.shape
        y = F.rms_norm(x, (width,), self.norm1.to(x.dtype), self.eps)
        q, k, val = (
            p(y).view(batch, steps, self.heads, -1).transpose(1, 2)
            for p in (self.q, self.k, self.v)
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if cache is not None:
            if cache:
                k, val = torch.cat([cache[0], k], 2), torch.cat([cache[1], val], 2)
            cache[:] = [k, val]
        looks = None
        if guided:
            score = (q[:, :guided] @ k[:, :guided].transpose(2, 3)).float() / math.sqrt(q.shape[-1])
            future = torch.ones(steps, steps, dtype=torch.bool).triu(1)
            looks = score.masked_fill(future, -1e9).log_softmax(-1)
        out = (
            attend(q, k, val)
            if self.training
            else F.scaled_dot_product_attention(q, k, val, is_causal=steps > 1)
        )
        x = x + self.o(out.transpose(1, 2).reshape(batch, steps, width))
        y = F.rms_norm(x, (width,), self.norm2.to(x.dtype), self.eps)
        return x + self.down(F.silu(self.gate(y)) * self.up(y)), looks


def attend(q: Tensor, k: Tensor, val: Tensor, block: int = 128) -> Tensor:
    """Causal attention, written out: its backward pass is faster on a CPU than that of the fused
    one. Queries go in blocks, so that none is multiplied with keys behind its block."""
    steps = q.shape[2]
    q = q / math.sqrt(q.shape[-1])
    mask = torch.full((block, block), float("-inf"), dtype=q.dtype).triu(1)
    out = []
    for a in range(0, steps, block):
        b = min(a + block, steps)
        score = q[:, :, a:b] @ k[:, :, :b].transpose(2, 3)
        score = torch.cat([score[..., :a], score[..., a:] + mask[: b - a, : b - a]], -1)
        out.append(torch.softmax(score, -1) @ val[:, :, :b])
    return torch.cat(out, 2)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions, halves paired as in transformers' Llama."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Table(nn.Module):
    """The tied table of token vectors, kept as meaningful parts.

    Rows: ``text`` 64; ``control`` 10; coarse ``letter + next + pair``, and ``speaker`` as well
    for the second voice; middle ``pitch + phase + level``; fine ``phoneme + remaining`` (which half
    it is, the slot says); a vector for each slot; ``unused`` for all other rows.
    """

    def __init__(self, width: int) -> None:
        super().__init__()

        def rows(*shape: int, std: float = 0.02) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, width) * std)

        self.text = rows(v.CUSTOM)
        self.control = rows(10)
        self.letter = rows(64)
        self.next = rows(64)
        self.pair = rows(64 * 64, std=0.004)
        self.speaker = rows(1)
        self.pitch = rows(PITCHES)
        self.phase = rows(PHASES)
        self.level = rows(LEVELS)
        self.phoneme = rows(64)
        self.remaining = rows(REMAINING)
        self.slot = rows(7)
        self.unused = rows(1)
        n = len(LETTERS)
        place = torch.arange(n)
        self.register_buffer("pairs", (64 * place[:, None] + place[None]).reshape(-1), False)
        used = 2 * n * n + 2 * PITCHES * PHASES * LEVELS + 4 * len(PHONEMES) * REMAINING
        self.spare = 7 * ROWS - used
        self.pairs: Tensor

    def coarse(self) -> Tensor:
        """``[n * n, width]``, the pairs of letters in use."""
        n = len(LETTERS)
        both = self.letter[:n, None] + self.next[None, :n]
        return both.reshape(n * n, -1) + self.pair[self.pairs]

    def full(self) -> Tensor:
        """All ``[28746, width]`` rows, as exported."""
        width = self.text.shape[1]
        audio = self.unused.detach().repeat(7 * ROWS, 1).view(7, ROWS, width)
        coarse = self.coarse() + self.slot[0]
        audio[0, self.pairs] = coarse
        audio[0, SECOND : SECOND + len(coarse)] = coarse + self.speaker
        middle = self.pitch[:, None, None] + self.phase[None, :, None] + self.level
        fine = self.phoneme[: len(PHONEMES), None] + self.remaining
        middle, fine = middle.reshape(-1, width), fine.reshape(-1, width)
        for s in (1, 4):
            audio[s, : len(middle)] = middle + self.slot[s]
        for half, s in enumerate((2, 3)):
            audio[s, half : 2 * len(fine) : 2] = fine + self.slot[s]
            audio[s + 3, half : 2 * len(fine) : 2] = fine + self.slot[s + 3]
        return torch.cat([self.text, self.control, audio.reshape(-1, width)])

    def embed(self, ids: Tensor) -> Tensor:
        """Vectors of ids, ``[..., width]``, from the parts (used rows only)."""
        audio = ids - v.AUDIO
        slot, code = audio.clamp(min=0) // ROWS, audio.clamp(min=0) % ROWS
        low = torch.cat([self.text, self.control])
        out = F.embedding(ids.clamp(max=v.AUDIO - 1), low)
        is_audio = (audio >= 0)[..., None]
        n = len(LETTERS)
        second = code >= SECOND
        beyond = (code - SECOND).clamp(min=0, max=n * n - 1)
        pair = torch.where(second, 64 * (beyond // n) + beyond % n, code)
        coarse = (
            F.embedding(pair // 64, self.letter)
            + F.embedding(pair % 64, self.next)
            + F.embedding(pair, self.pair)
            + second[..., None] * self.speaker
        )
        middle = (
            F.embedding((code // (LEVELS * PHASES)).clamp(max=PITCHES - 1), self.pitch)
            + F.embedding(code // LEVELS % PHASES, self.phase)
            + F.embedding(code % LEVELS, self.level)
        )
        fine = F.embedding(code // (2 * REMAINING), self.phoneme) + F.embedding(
            code // 2 % REMAINING, self.remaining
        )
        s = slot[..., None]
        sound = torch.where(s == 0, coarse, torch.where((s == 1) | (s == 4), middle, fine))
        return torch.where(is_audio, sound + F.embedding(slot, self.slot), out)

    def loss(self, h: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy over the whole vocabulary of ``h [N, width]``, ``[N]``, in nats.

        ``log sum exp`` over a set of sums is the sum of the parts' ``log sum exp``.
        """
        n = len(LETTERS)
        weight = torch.cat(
            [
                self.text,
                self.control,
                self.unused,
                self.speaker,
                self.slot,
                self.pitch,
                self.phase,
                self.level,
                self.phoneme[: len(PHONEMES)],
                self.remaining,
                self.coarse(),
            ]
        )
        sizes = [v.CUSTOM, 10, 1, 1, 7, PITCHES, PHASES, LEVELS, len(PHONEMES), REMAINING, n * n]
        parts = torch.split((h @ weight.t()).float(), sizes, -1)
        text, control, unused, speaker, slot, pitch, phase, level, phoneme, remaining, coarse = (
            parts
        )
        middle = pitch.logsumexp(-1) + phase.logsumexp(-1) + level.logsumexp(-1)
        middle = middle + slot[:, [1, 4]].logsumexp(-1)
        fine = phoneme.logsumexp(-1) + remaining.logsumexp(-1)
        fine = fine + slot[:, [2, 3, 5, 6]].logsumexp(-1)
        everything = torch.stack(
            [
                text.logsumexp(-1),
                control.logsumexp(-1),
                unused[:, 0] + math.log(self.spare),
                coarse.logsumexp(-1) + slot[:, 0] + F.softplus(speaker[:, 0]),
                middle,
                fine,
            ],
            -1,
        ).logsumexp(-1)
        audio = (target - v.AUDIO).clamp(min=0)
        k, code = audio // ROWS, audio % ROWS

        def at(table: Tensor, index: Tensor) -> Tensor:
            return table.gather(1, index[:, None])[:, 0]

        second = code >= SECOND
        pair = torch.where(second, code - SECOND, (code // 64) * n + code % 64)
        of_coarse = at(coarse, pair.clamp(max=n * n - 1)) + second * speaker[:, 0]
        of_middle = (
            at(pitch, (code // (LEVELS * PHASES)).clamp(max=PITCHES - 1))
            + at(phase, code // LEVELS % PHASES)
            + at(level, code % LEVELS)
        )
        of_fine = at(phoneme, (code // (2 * REMAINING)).clamp(max=len(PHONEMES) - 1)) + at(
            remaining, code // 2 % REMAINING
        )
        sound = torch.where(k == 0, of_coarse, torch.where((k == 1) | (k == 4), of_middle, of_fine))
        stop = control[:, v.END_OF_SPEECH - v.CUSTOM]
        right = torch.where(target >= v.AUDIO, sound + at(slot, k), stop)
        return everything - right


class VoiceModel(nn.Module):
    """The Llama, plus what only training needs (the reader of whole words).

    ``guided_layer``: the layer whose first two heads are trained to attend to given places.
    """

    guided_layer = 2
    word_length = 14

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size
        self.table = Table(size.width)
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.layers))
        self.norm = nn.Parameter(torch.ones(size.width))
        self.speller = nn.Linear(size.width, self.word_length * 64)
        for block in self.blocks:
            for name, p in block.named_parameters():
                if p.dim() == 2:
                    scale = 1 / math.sqrt(2 * size.layers) if name[0] in "od" else 1.0
                    nn.init.normal_(p, std=0.02 * 2 * scale)
        half = size.width // size.heads // 2
        rate = size.theta ** (-torch.arange(half).float() / half)
        angle = torch.outer(torch.arange(3000).float(), rate)
        self.register_buffer("cos", angle.cos(), False)
        self.register_buffer("sin", angle.sin(), False)
        self.cos: Tensor
        self.sin: Tensor

    def forward(
        self,
        ids: Tensor,
        guide: bool = False,
        caches: list[list[Tensor]] | None = None,
        start: int = 0,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Ids ``[B, T]`` to final states ``[B, T, width]``; guided attention and mid states too."""
        x = self.table.embed(ids)
        if torch.is_autocast_enabled("cpu"):
            x = x.bfloat16()
        cos = self.cos[start : start + ids.shape[1]].to(x.dtype)
        sin = self.sin[start : start + ids.shape[1]].to(x.dtype)
        looks = middle = None
        for i, block in enumerate(self.blocks):
            teach = 2 if guide and i == self.guided_layer else 0
            x, seen = block(x, cos, sin, teach, None if caches is None else caches[i])
            if teach:
                looks, middle = seen, x
        return (
            F.rms_norm(x, (self.size.width,), self.norm.to(x.dtype), self.size.norm_eps),
            looks,
            middle,
        )
