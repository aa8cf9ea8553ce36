"""The layers of SNAC's decoder, each able to continue where its last call stopped.

Layout. Activations are `[rows, batch, channels]`: rows are consecutive positions in time. A time shift is then a plain
slice of contiguous memory, a pointwise convolution is one matrix product over `rows * batch`, and the history of a
layer is a handful of leading rows. On a CPU this is several times faster than torch's grouped conv1d on `[batch, channels, time]`.

Streaming. SNAC's convolutions are centred (zero padding on both sides). Here each one runs causally: it prepends the
rows it remembers (its *tail*) and emits exactly as many rows as it is given, late by its right context. The lateness of
all layers adds up to `delay`. Rows that lie before the stream's first position or behind its last must reach the next
convolution as zeros, because there the original sees its padding; `mask` does that and is only needed near both ends.

Architecture: SNAC, arXiv 2410.14411; reference code github.com/hubertsiuzdak/snac (`snac/layers.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

Tails = list[Tensor]
"""A layer's memory, one tensor [rows, batch, channels] per entry of its `tail_shapes`; `step` replaces the entries."""

KERNEL = 7


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

    def __init__(self, alpha: Tensor) -> None:
        super().__init__()
        alpha = alpha.reshape(-1)
        self.register_buffer("alpha", alpha)
        self.register_buffer("scale", (alpha + 1e-9).reciprocal())

    def step(self, x: Tensor) -> Tensor:
        wave = x * self.alpha
        wave.sin_()
        wave.mul_(wave)
        return torch.addcmul(x, wave, self.scale, out=wave)


class Pointwise(nn.Module):
    """Convolution of kernel 1: one matrix product."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight[..., 0].t().contiguous())  # [in, out]
        self.register_buffer("bias", bias)

    def step(self, x: Tensor) -> Tensor:
        rows, batch, channels = x.shape
        flat = torch.addmm(self.bias, x.reshape(-1, channels), self.weight)
        return flat.view(rows, batch, -1)


class Depthwise(nn.Module):
    """Convolution of kernel 7 over each channel alone, as seven shifted multiply-adds.

    Emits `len(x) - 6 * dilation` rows: the caller prepends the tail.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, dilation: int) -> None:
        super().__init__()
        self.register_buffer("weight", weight[:, 0, :].t().contiguous())  # [7, channels]
        self.register_buffer("bias", bias)
        self.dilation = dilation

    def step(self, x: Tensor) -> Tensor:
        rows = x.shape[0] - (KERNEL - 1) * self.dilation
        out = torch.addcmul(self.bias, x[:rows], self.weight[0])
        for tap in range(1, KERNEL):
            start = tap * self.dilation
            out.addcmul_(x[start : start + rows], self.weight[tap])
        return out


class ResidualUnit(nn.Module):
    """x + pointwise(snake(depthwise(snake(x)))); late by `3 * dilation` rows."""

    def __init__(self, weights: Mapping[str, Tensor], dilation: int) -> None:
        super().__init__()
        self.snake_in = Snake(weights["block.0.alpha"])
        self.depthwise = Depthwise(weights["block.1.weight"], weights["block.1.bias"], dilation)
        self.snake_mid = Snake(weights["block.2.alpha"])
        self.pointwise = Pointwise(weights["block.3.weight"], weights["block.3.bias"])
        self.delay = 3 * dilation
        channels = self.pointwise.bias.shape[0]
        self.tail_shapes = [(self.delay, channels), (2 * self.delay, channels)]

    def step(self, x: Tensor, tails: Tails, first: int) -> Tensor:
        """`tails[first]` holds late inputs for the sum, `tails[first + 1]` the convolution's history."""
        rows, _, channels = x.shape
        late = _prepend(tails, first, x)[:rows]
        y = self.depthwise.step(_prepend(tails, first + 1, self.snake_in.step(x)))
        y = self.snake_mid.step(y)
        # Safe in place: `late` is this call's own copy and the tail kept above lies behind it.
        late.view(-1, channels).addmm_(y.view(-1, channels), self.pointwise.weight)
        return late.add_(self.pointwise.bias)


class Upsample(nn.Module):
    """Transposed convolution, kernel 2s, stride s: an output row mixes one input row and the one before it.

    Late by s / 2 output rows (the original's padding).
    """

    current: Tensor
    previous: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, stride: int) -> None:
        super().__init__()
        taps = weight.permute(0, 2, 1)  # [in, 2s, out]
        self.register_buffer("current", taps[:, :stride].flatten(1).contiguous())
        self.register_buffer("previous", taps[:, stride:].flatten(1).contiguous())
        self.register_buffer("bias", bias)
        self.stride = stride
        self.delay = stride // 2
        self.tail_shapes = [(1, weight.shape[0])]

    def step(self, x: Tensor, tails: Tails, first: int) -> Tensor:
        rows, batch, channels = x.shape
        joined = _prepend(tails, first, x)
        flat = torch.mm(joined[1:].reshape(-1, channels), self.current)
        flat.addmm_(joined[:rows].reshape(-1, channels), self.previous)
        if batch == 1:
            return flat.view(rows * self.stride, 1, -1).add_(self.bias)
        out = x.new_empty(rows, self.stride, batch, self.bias.shape[0])
        torch.add(flat.view(rows, batch, self.stride, -1).transpose(1, 2), self.bias, out=out)
        return out.view(rows * self.stride, batch, -1)


class Stem(nn.Module):
    """Latents to the first block's channels: depthwise 7, pointwise. Late by 3 rows, rate unchanged."""

    stride = 1

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.depthwise = Depthwise(weights["0.weight"], weights["0.bias"], 1)
        self.pointwise = Pointwise(weights["1.weight"], weights["1.bias"])
        self.channels = self.pointwise.bias.shape[0]
        self.tail_shapes = [(KERNEL - 1, self.depthwise.bias.shape[0])]
        self.delays = [KERNEL // 2]

    def step(
        self, x: Tensor, tails: Tails, masks: list[Tensor] | None, noise: Tensor | None
    ) -> Tensor:
        x = self.pointwise.step(self.depthwise.step(_prepend(tails, 0, x)))
        return x if masks is None else x.mul_(masks[0])


class Block(nn.Module):
    """One decoder block: Snake, transposed convolution, noise, three residual units of dilation 1, 3, 9.

    Attributes:
        delays: rows (at the output rate) by which this block alone is late after the transposed convolution and
            after each residual unit; at each of these points `step` takes a mask.
    """

    noise_weight: Tensor | None

    def __init__(self, weights: Mapping[str, Tensor], stride: int, *, noise: bool) -> None:
        super().__init__()
        self.snake = Snake(weights["block.0.alpha"])
        self.upsample = Upsample(weights["block.1.weight"], weights["block.1.bias"], stride)
        mixing = weights["block.2.linear.weight"][..., 0].t().contiguous() if noise else None
        self.register_buffer("noise_weight", mixing)
        self.stride = stride
        self.channels = self.upsample.bias.shape[0]
        self.tail_shapes = list(self.upsample.tail_shapes)
        self.delays = [self.upsample.delay]
        self.units = nn.ModuleList()
        for number, dilation in enumerate((1, 3, 9)):
            prefix = f"block.{number + (3 if noise else 2)}."
            inner = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
            unit = ResidualUnit(inner, dilation)
            self.units.append(unit)
            self.tail_shapes += unit.tail_shapes
            self.delays.append(self.delays[-1] + unit.delay)

    def step(
        self, x: Tensor, tails: Tails, masks: list[Tensor] | None, noise: Tensor | None
    ) -> Tensor:
        """x [n, batch, in] -> [n * stride, batch, out].

        masks: 1.0 / 0.0 per output row, [n * stride, batch, 1], one per entry of `delays`. noise: the same shape.
        """
        x = self.upsample.step(self.snake.step(x), tails, 0)
        if noise is not None and self.noise_weight is not None:
            mixed = torch.mm(x.view(-1, self.channels), self.noise_weight)
            x.addcmul_(mixed.view_as(x), noise)
        if masks is not None:
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
    weight: Tensor
    bias: Tensor

    def __init__(self, alpha: Tensor, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.snake = Snake(alpha)
        self.register_buffer("weight", weight[0].contiguous())  # [in, 7]
        self.register_buffer("bias", bias)
        self.tail_shapes = [(KERNEL - 1, weight.shape[1])]
        self.delays = [KERNEL // 2]

    def step(
        self, x: Tensor, tails: Tails, masks: list[Tensor] | None, noise: Tensor | None
    ) -> Tensor:
        rows, batch, channels = x.shape
        joined = _prepend(tails, 0, self.snake.step(x))
        # All seven taps of every row in one product; then each output sums a diagonal of it.
        taps = torch.mm(joined.view(-1, channels), self.weight).view(-1, batch, KERNEL)
        out = taps[:rows, :, 0] + self.bias
        for tap in range(1, KERNEL):
            out += taps[tap : tap + rows, :, tap]
        return out.tanh_().unsqueeze(-1)
