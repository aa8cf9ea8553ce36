"""The layers of SNAC's decoder in torch, each able to continue where its last call stopped.

Layout. Activations are `[rows, batch, channels]`: rows are consecutive positions in time. A time
shift is then a plain slice of contiguous memory, a pointwise convolution is one matrix product over
`rows * batch`, and the history of a layer is a handful of leading rows. On a CPU this is several
times faster than torch's grouped conv1d on `[batch, channels, time]`.

Streaming. SNAC's convolutions are centred (zero padding on both sides). Here each one runs
causally: it prepends the rows it remembers (its *tail*) and emits exactly as many rows as it is
given, late by its right context. The lateness of all layers adds up to `delay`. Rows that lie
before the stream's first position or behind its last must reach the next convolution as zeros,
because there the original sees its padding; `mask` does that and is only needed near both ends.

Architecture: SNAC, arXiv 2410.14411; reference code github.com/hubertsiuzdak/snac
(`snac/layers.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orpheus_plugin.codec.config import DILATIONS, KERNEL
from orpheus_plugin.codec.torch.elementwise import EAGER, Elementwise, depthwise

Tails = list[Tensor]
"""A stage's memory, one tensor [rows, batch, channels] per entry of `config.Stage.tails`; `step`
replaces the entries."""

_ROWS = 4
"""MKL sums in another order for fewer rows, or for columns that are not a multiple of this. A
stream's last bits would then depend on its chunks and on who shares its steps."""


def _prepend(tails: Tails, index: int, rows: Tensor) -> Tensor:
    """Put the remembered rows before `rows` and remember as many of the newest ones."""
    count = tails[index].shape[0]
    joined = torch.cat((tails[index], rows))
    tails[index] = joined[joined.shape[0] - count :]
    return joined


class Snake(nn.Module):
    """x + sin(alpha * x)^2 / alpha, per channel."""

    alpha: Tensor
    scale: Tensor
    work: Elementwise = EAGER

    def __init__(self, alpha: Tensor) -> None:
        super().__init__()
        alpha = alpha.reshape(-1)
        self.register_buffer("alpha", alpha)
        self.register_buffer("scale", (alpha + 1e-9).reciprocal())

    def step(self, x: Tensor) -> Tensor:
        return self.work.snake(x, self.alpha, self.scale)


class Product(nn.Module):
    """x @ weight + bias (+ other) over the last dimension: where nearly all the arithmetic is.

    Plain `addmm`, not weights packed for oneDNN: that builds and keeps a kernel for every number of
    rows, 0.55 MB each, and streams that join and leave need more and more of them (250 MB for 1 to
    8 lanes with 5 numbers of rows). Measured on an AMD EPYC with AVX2, the two are as fast for the
    full-size decoder, and `addmm` is faster for the small one.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("weight", weight.contiguous())  # [in, out]
        self.register_buffer("bias", bias)

    def step(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """x [..., in], other [..., out] -> [..., out]."""
        flat = x.reshape(-1, x.shape[-1])
        rows = flat.shape[0]
        late = None if other is None else other.reshape(rows, -1)
        if rows < _ROWS:
            spare = (0, 0, 0, _ROWS - rows)
            flat, late = F.pad(flat, spare), None if late is None else F.pad(late, spare)
        if late is not None:
            out = torch.addmm(late, flat, self.weight)
            if self.bias is not None:
                out += self.bias
        elif self.bias is not None:
            out = torch.addmm(self.bias, flat, self.weight)
        else:
            out = torch.mm(flat, self.weight)
        return out[:rows].view(*x.shape[:-1], -1)


class Depthwise(nn.Module):
    """See `depthwise`."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, dilation: int) -> None:
        super().__init__()
        self.register_buffer("weight", weight[:, 0, :].t().contiguous())
        self.register_buffer("bias", bias)
        self.dilation = dilation

    def step(self, x: Tensor) -> Tensor:
        return depthwise(x, self.weight, self.bias, self.dilation)


class ResidualUnit(nn.Module):
    """x + pointwise(snake(depthwise(snake(x)))); late by `3 * dilation` rows."""

    work: Elementwise = EAGER

    def __init__(self, weights: Mapping[str, Tensor], dilation: int) -> None:
        super().__init__()
        self.snake_in = Snake(weights["block.0.alpha"])
        self.depthwise = Depthwise(weights["block.1.weight"], weights["block.1.bias"], dilation)
        self.snake_mid = Snake(weights["block.2.alpha"])
        self.pointwise = Product(weights["block.3.weight"][..., 0].t(), weights["block.3.bias"])

    def step(self, x: Tensor, tails: Tails, first: int) -> Tensor:
        """`tails[first]` holds late inputs for the sum, `tails[first + 1]` the convolution's
        history."""
        late = _prepend(tails, first, x)[: x.shape[0]]
        y = self.work.filter(
            _prepend(tails, first + 1, self.snake_in.step(x)),
            self.depthwise.weight,
            self.depthwise.bias,
            self.depthwise.dilation,
            self.snake_mid.alpha,
            self.snake_mid.scale,
        )
        return self.pointwise.step(y, late)


class Upsample(nn.Module):
    """Transposed convolution, kernel 2s, stride s: an output row mixes one input row and the one
    before it.

    Late by s / 2 output rows (the original's padding).
    """

    def __init__(self, weight: Tensor, bias: Tensor, stride: int) -> None:
        super().__init__()
        taps = weight.permute(0, 2, 1)  # [in, 2s, out]
        self.current = Product(taps[:, :stride].flatten(1), bias.repeat(stride))
        self.previous = Product(taps[:, stride:].flatten(1), None)
        self.stride = stride
        self.channels = bias.shape[0]

    def step(self, x: Tensor, tails: Tails, first: int) -> Tensor:
        rows, batch, _ = x.shape
        joined = _prepend(tails, first, x)
        y = self.previous.step(joined[:rows], self.current.step(joined[1:]))
        # [rows, batch, s, out]: the s rows that belong in one place in time still follow each other
        # per stream.
        y = y.view(rows, batch, self.stride, self.channels).transpose(1, 2)
        return y.reshape(rows * self.stride, batch, self.channels)


class Stem(nn.Module):
    """Latents to the first block's channels: depthwise 7, pointwise. Late by 3 rows, rate
    unchanged."""

    stride = 1

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.depthwise = Depthwise(weights["0.weight"], weights["0.bias"], 1)
        self.pointwise = Product(weights["1.weight"][..., 0].t(), weights["1.bias"])
        self.channels = weights["1.bias"].shape[0]

    def step(
        self, x: Tensor, tails: Tails, masks: list[Tensor] | None, noise: Tensor | None
    ) -> Tensor:
        x = self.pointwise.step(self.depthwise.step(_prepend(tails, 0, x)))
        return x if masks is None else x.mul_(masks[0])


class Block(nn.Module):
    """One decoder block: Snake, transposed convolution, noise, three residual units of dilation 1,
    3, 9."""

    work: Elementwise = EAGER

    def __init__(self, weights: Mapping[str, Tensor], stride: int, *, noise: bool) -> None:
        super().__init__()
        self.snake = Snake(weights["block.0.alpha"])
        self.upsample = Upsample(weights["block.1.weight"], weights["block.1.bias"], stride)
        mixing = weights["block.2.linear.weight"][..., 0].t() if noise else None
        self.noise = None if mixing is None else Product(mixing, None)
        self.stride = stride
        self.channels = self.upsample.channels
        self.units = nn.ModuleList()
        for number, dilation in enumerate(DILATIONS):
            prefix = f"block.{number + (3 if noise else 2)}."
            inner = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
            self.units.append(ResidualUnit(inner, dilation))

    def step(
        self, x: Tensor, tails: Tails, masks: list[Tensor] | None, noise: Tensor | None
    ) -> Tensor:
        """x [n, batch, in] -> [n * stride, batch, out].

        masks: 1.0 / 0.0 per output row, [n * stride, batch, 1], one per entry of the stage's
        `delays`. noise: the same shape.
        """
        x = self.upsample.step(self.snake.step(x), tails, 0)
        if noise is not None and masks is not None and self.noise is not None:
            x = self.work.mix(x, self.noise.step(x), noise, masks[0])
        elif noise is not None and self.noise is not None:
            x.addcmul_(self.noise.step(x), noise)
        elif masks is not None:
            x.mul_(masks[0])
        for number, unit in enumerate(self.units):
            assert isinstance(unit, ResidualUnit)
            x = unit.step(x, tails, 1 + 2 * number)
            if masks is not None:
                x.mul_(masks[number + 1])
        return x


class Head(nn.Module):
    """Snake, convolution of kernel 7 to one channel, tanh. Late by 3 rows."""

    stride = 1
    channels = 1
    bias: Tensor

    def __init__(self, alpha: Tensor, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.snake = Snake(alpha)
        self.taps = Product(F.pad(weight[0], (0, -KERNEL % _ROWS)), None)  # [in, 7 and a spare]
        self.register_buffer("bias", bias)

    def step(
        self, x: Tensor, tails: Tails, masks: list[Tensor] | None, noise: Tensor | None
    ) -> Tensor:
        rows = x.shape[0]
        joined = _prepend(tails, 0, self.snake.step(x))
        # All seven taps of every row in one product; then each output sums a diagonal of it.
        taps = self.taps.step(joined)
        out = taps[:rows, :, 0] + self.bias
        for tap in range(1, KERNEL):
            out += taps[tap : tap + rows, :, tap]
        return out.tanh_().unsqueeze(-1)
