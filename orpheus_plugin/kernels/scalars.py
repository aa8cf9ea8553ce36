"""Functions of one number for compiled loops, in float32 and without calls, so that the loops
become vector code."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .compiled import compiled, cpu_has

f4, i4 = np.float32, np.int32

HAS_HALF = cpu_has("f16c") or cpu_has("neon")
"""Whether the CPU converts float16 by itself: x86 since 2012, all 64-bit ARM."""


@intrinsic
def float_of_bits(_context: Any, _bits: Any) -> Any:
    """The float32 with the bits of an int32."""
    return types.float32(types.int32), lambda _c, b, _s, v: b.bitcast(v[0], ir.FloatType())


@intrinsic
def bits_of_float(_context: Any, _value: Any) -> Any:
    """The bits of a float32, as an int32."""
    return types.int32(types.float32), lambda _c, b, _s, v: b.bitcast(v[0], ir.IntType(32))


@intrinsic
def widened(_context: Any, value: Any) -> Any:
    """A weight as float32: a float32 as it is, a uint16 as the bits of a bfloat16."""

    def code(_context: Any, b: ir.IRBuilder, _signature: Any, values: Any) -> Any:
        if value == types.float32:
            return values[0]
        word = b.zext(values[0], ir.IntType(32))
        return b.bitcast(b.shl(word, ir.Constant(word.type, 16)), ir.FloatType())

    return types.float32(value), code


@intrinsic
def narrowed(_context: Any, value: Any, like: Any) -> Any:
    """A float32 as an array's elements: float32, or the bits of a float16 where they are uint16."""

    def code(_context: Any, b: ir.IRBuilder, _signature: Any, values: Any) -> Any:
        if like.dtype == types.float32:
            return values[0]
        return b.bitcast(b.fptrunc(values[0], ir.HalfType()), ir.IntType(16))

    return like.dtype(types.float32, like), code


@compiled
def exp(x: Any) -> Any:
    """e ** x of a float32 within 2 ulp; from -87 down and from 88 up as there. Cephes' polynomial
    (expf.c)."""
    x = min(max(x, f4(-87.0)), f4(88.0))
    n = np.floor(x * f4(1.44269504) + f4(0.5))
    r = x - n * f4(0.693359375)
    r = r + n * f4(2.12194440e-4)
    p = f4(1.9875691500e-4)
    p = p * r + f4(1.3981999507e-3)
    p = p * r + f4(8.3334519073e-3)
    p = p * r + f4(4.1665795894e-2)
    p = p * r + f4(1.6666665459e-1)
    p = p * r + f4(5.0000001201e-1)
    p = p * (r * r) + r + f4(1.0)
    return p * float_of_bits((i4(n) + i4(127)) << i4(23))
