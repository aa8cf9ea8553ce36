"""The loops between the products of SNAC's decoder, on contiguous rows of channels.

Parameters of a channel (`alpha`, `bias`, a tap) come tiled: repeated for some rows (`tiled`), so
that a loop over them is long enough for vector code if there are few channels. Each value is
computed in the same order wherever its row is: a stream's samples do not depend on its chunks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from orpheus_plugin.codec.config import KERNEL
from orpheus_plugin.kernels.compiled import compiled
from orpheus_plugin.kernels.scalars import bits_of_float, exp, f4, float_of_bits, i4

Floats = NDArray[np.float32]

_MASK = 0xFFFFFFFF


@compiled
def sine(x: Any) -> Any:
    """sin x or -sin x, within 2 ulp up to 10,000. Cephes' reduction and polynomial (sinf.c)."""
    k = np.floor(x * f4(0.31830988618379067) + f4(0.5))
    r = x - k * f4(3.140625)
    r = r - k * f4(9.67502593994140625e-4)
    r = r - k * f4(1.509957990978376432e-7)
    r2 = r * r
    p = f4(2.6083159809786593541503e-06)
    p = p * r2 + f4(-0.0001981069071916863322258)
    p = p * r2 + f4(0.00833307858556509017944336)
    p = p * r2 + f4(-0.166666597127914428710938)
    return r + r * r2 * p


@compiled
def snake(x: Floats, alpha: Floats, scale: Floats, out: Floats) -> None:
    """out = x + sin(alpha * x)^2 * scale, per channel."""
    period = len(alpha)
    for start in range(0, len(x), period):
        a, b = x[start : start + period], out[start : start + period]
        for c in range(len(a)):
            wave = sine(a[c] * alpha[c])
            b[c] = a[c] + wave * wave * scale[c]


@compiled
def convolve(x: Floats, apart: int, taps: Floats, bias: Floats, out: Floats) -> None:
    """Convolution of kernel 7 over each channel alone. Taps lie `apart` values from each other; x
    begins with 6 * apart values of history."""
    period = len(bias)
    for start in range(0, len(out), period):
        x0, x1, x2 = x[start:], x[start + apart :], x[start + 2 * apart :]
        x3, x4, x5 = x[start + 3 * apart :], x[start + 4 * apart :], x[start + 5 * apart :]
        x6, y = x[start + 6 * apart :], out[start : start + period]
        for c in range(len(y)):
            a = bias[c] + x0[c] * taps[0, c] + x1[c] * taps[1, c] + x2[c] * taps[2, c]
            a = a + x3[c] * taps[3, c] + x4[c] * taps[4, c] + x5[c] * taps[5, c]
            y[c] = a + x6[c] * taps[6, c]


@compiled
def convolve_snake(
    x: Floats,
    apart: int,
    taps: Floats,
    bias: Floats,
    alpha: Floats,
    scale: Floats,
    out: Floats,
) -> None:
    """`convolve` and the snake after it, in one pass."""
    period = len(bias)
    for start in range(0, len(out), period):
        x0, x1, x2 = x[start:], x[start + apart :], x[start + 2 * apart :]
        x3, x4, x5 = x[start + 3 * apart :], x[start + 4 * apart :], x[start + 5 * apart :]
        x6, y = x[start + 6 * apart :], out[start : start + period]
        for c in range(len(y)):
            a = bias[c] + x0[c] * taps[0, c] + x1[c] * taps[1, c] + x2[c] * taps[2, c]
            a = a + x3[c] * taps[3, c] + x4[c] * taps[4, c] + x5[c] * taps[5, c]
            a = a + x6[c] * taps[6, c]
            wave = sine(a * alpha[c])
            y[c] = a + wave * wave * scale[c]


@compiled
def copy(x: Floats, out: Floats) -> None:
    """The first values of out = x, from front to back: x may be a later part of out. numba's
    `out[:n] = x` takes five times as long."""
    for i in range(len(x)):
        out[i] = x[i]


@compiled
def fill(out: Floats, row: Floats) -> None:
    """Every row of `out` = row."""
    period = len(row)
    for start in range(0, len(out), period):
        y = out[start : start + period]
        for c in range(len(y)):
            y[c] = row[c]


@compiled
def add_bias(x: Floats, bias: Floats, out: Floats) -> None:
    """out = the first rows of x, plus bias."""
    period = len(bias)
    for start in range(0, len(out), period):
        y, z = out[start : start + period], x[start:]
        for c in range(len(y)):
            y[c] = z[c] + bias[c]


@compiled
def delayed(tail: Floats, x: Floats, bias: Floats, out: Floats) -> None:
    """out = the first rows of [tail, x], plus bias; then tail = the last rows of [tail, x]."""
    late, size = len(tail), len(x)
    add_bias(tail, bias, out[: min(late, size)])
    if size > late:
        add_bias(x, bias, out[late:size])
        copy(x[size - late :], tail)
    else:
        copy(tail[size:], tail)
        copy(x, tail[late - size :])


@compiled
def blank(x: Floats, channels: int, first: int, stop: int) -> None:
    """Zero the rows of x that lie before row `first` or from row `stop` on."""
    rows = len(x) // channels
    x[: min(max(first, 0), rows) * channels] = 0
    x[min(max(stop, 0), rows) * channels :] = 0


@compiled
def tanh(x: Any) -> Any:
    return f4(1) - f4(2) / (exp(f4(2) * x) + f4(1))


@compiled
def log(x: Any) -> Any:
    """Natural logarithm of a normal float32 above 0. Cephes' polynomial (logf.c)."""
    bits = bits_of_float(x)
    exponent = (bits >> i4(23)) - i4(126)
    m = float_of_bits((bits & i4(0x7FFFFF)) | i4(0x3F000000))  # in [0.5, 1)
    low = m < f4(0.707106781186547524)
    e = f4(exponent) - (f4(1) if low else f4(0))
    m = m - f4(1) + (m if low else f4(0))
    z = m * m
    p = f4(7.0376836292e-2)
    p = p * m + f4(-1.1514610310e-1)
    p = p * m + f4(1.1676998740e-1)
    p = p * m + f4(-1.2420140846e-1)
    p = p * m + f4(1.4249322787e-1)
    p = p * m + f4(-1.6668057665e-1)
    p = p * m + f4(2.0000714765e-1)
    p = p * m + f4(-2.4999993993e-1)
    p = p * m + f4(3.3333331174e-1)
    y = m * z * p + f4(-2.12194440e-4) * e - f4(0.5) * z
    return m + y + f4(0.693359375) * e


@compiled
def mix(x: Any) -> Any:
    """See noise._mix."""
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & _MASK
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & _MASK
    return x ^ (x >> 16)


@compiled
def normal(keys: NDArray[np.int64], first: int, out: Floats) -> None:
    """The draws of noise.normal for positions from `first` on, within 1e-6."""
    for i in range(len(out)):
        a = mix(mix((first + i) & _MASK) ^ keys[0])
        b = mix(a ^ keys[1])
        u = f4((a >> 8) + 1) * f4(2.0**-24)
        turns = f4(b >> 8) * f4(2.0**-24)
        wave = sine(f4(np.pi) * turns)
        out[i] = np.sqrt(f4(-2) * log(u)) * (f4(1) - f4(2) * wave * wave)


def tiled(values: Floats, rows: int) -> Floats:
    """[..., channels] -> [..., k * channels], with k for 64 values, if k divides `rows`."""
    channels, k = values.shape[-1], 1
    while k * channels < 64 and rows % (2 * k) == 0:
        k *= 2
    return np.ascontiguousarray(np.tile(values, k), np.float32)


assert KERNEL == 7, "the convolutions are written out"
