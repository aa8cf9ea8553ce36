"""Matrix products with few rows, generated as LLVM code.

A matrix is packed once into panels, [panels, K, 16]. A panel is 16 columns of float32 (`pack`), of
float16 (a cache of keys and values), or 32 columns of bfloat16 (`pack_bfloat16`): a word holds
column j in its low half, column j + 16 in its high half. A panel is read from front to back, once
for up to 8 rows.

Every value of a product is one chain of fused multiply-adds over k = 0, 1, ... K - 1, whatever the
number of rows: a stream's values do not depend, to the last bit, on the streams that share its
step.

Plain loops do not keep the sums in registers: a token step takes 1.7 times as long with them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import DTypeLike, NDArray

from .compiled import compiled, compiled_sum, cpu_has
from .scalars import f4

LANES = 16
TOGETHER = 4
"""Panels that are read side by side for few rows, so that there are enough independent sums."""

_ROWS, _SUMS = (8, 256) if cpu_has("avx512f") else (6, 96)
"""Rows of a tile, and sums at most: they fill half of the registers of AVX-512 (32 of 16 floats),
and of AVX2 (16 of 8) and ARM (32 of 4) all but what the columns and a value of x need."""

_F32, _I16, _I32, _I64 = ir.FloatType(), ir.IntType(16), ir.IntType(32), ir.IntType(64)
_FLOATS, _WORDS = ir.VectorType(_F32, LANES), ir.VectorType(_I32, LANES)
_HALVES = ir.VectorType(ir.HalfType(), LANES)


def aligned(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Zeros that begin at a cache line: a vector across two lines costs two reads."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.zeros(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape)


def pack(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 [K, N] -> panels [ceil(N / 16), K, 16]; columns behind N are zero."""
    inputs, columns = matrix.shape
    panels = aligned((-(-columns // LANES), inputs, LANES), np.float32)
    for column in range(0, columns, LANES):
        part = matrix[:, column : column + LANES]
        panels[column // LANES, :, : part.shape[1]] = part
    return panels


def pack_bfloat16(matrix: NDArray[np.uint16]) -> NDArray[np.uint32]:
    """bfloat16 [K, N], as bits -> panels [ceil(N / 32), K, 16]; columns behind N are zero."""
    inputs, columns = matrix.shape
    panels = aligned((-(-columns // (2 * LANES)), inputs, LANES), np.uint32)
    for column in range(0, columns, LANES):
        part = matrix[:, column : column + LANES].astype(np.uint32)
        number, high = divmod(column // LANES, 2)
        panels[number, :, : part.shape[1]] |= part << (16 * high)
    return panels


@compiled
def add_product(rows: int, x: Any, x_stride: int, panels: Any, y: Any, y_stride: int) -> None:
    """y[r] += x[r] @ matrix for `rows` rows of float32, which start `x_stride` and `y_stride`
    values apart.

    `panels` is a packed matrix, or the first part of each panel of one: [panels, K, 16] with any
    distance between panels. Rows of x may overlap, as those of a convolution do. Memory after each
    row of y is written to, up to the end of the last panel, with the values it had: so there must
    be 31 values after the last row.

    Cost: reads the matrix once for 8 rows (6 with AVX2 or ARM; bfloat16: 2), from the L2 cache or
    from memory. On an AVX2 core 6 rows reach 86 GFLOPS where 4 reach 77 and OpenBLAS 82.
    """
    count = panels.shape[0]
    width = _columns(panels)
    for first in range(0, count, TOGETHER):
        group = min(TOGETHER, count - first)
        w = panels.ctypes.data + first * panels.strides[0]
        row = 0
        while row < rows:
            at = x.ctypes.data + 4 * row * x_stride
            to = y.ctypes.data + 4 * (row * y_stride + first * width)
            left = rows - row
            if left >= _ROWS:
                _tiles(panels, _ROWS, w, group, at, 4 * x_stride, to, 4 * y_stride)
                row += _ROWS
            elif left >= 4:
                _tiles(panels, 4, w, group, at, 4 * x_stride, to, 4 * y_stride)
                row += 4
            elif left >= 2:
                _tiles(panels, 2, w, group, at, 4 * x_stride, to, 4 * y_stride)
                row += 2
            else:
                _tiles(panels, 1, w, group, at, 4 * x_stride, to, 4 * y_stride)
                row += 1


def _width(panels: types.Array) -> int:
    """Columns of a panel."""
    return 2 * LANES if panels.dtype == types.uint32 else LANES


@intrinsic
def _columns(_context: Any, panels: Any) -> Any:
    def code(context: Any, _builder: Any, _signature: Any, _values: Any) -> Any:
        return context.get_constant(types.int64, _width(panels))

    return types.int64(panels), code


@intrinsic(prefer_literal=True)
def _tiles(
    _context: Any, panels: Any, rows: Any, w: Any, count: Any, x: Any, xs: Any, y: Any, ys: Any
) -> Any:
    """Add to `rows` rows of y, at an address, their products with `count` panels that begin at
    address w."""

    def code(context: Any, b: ir.IRBuilder, signature: Any, values: Any) -> Any:
        array = context.make_array(panels)(context, b, values[0])
        inputs = b.extract_value(array.shape, 1)
        between, below = (b.extract_value(array.strides, axis) for axis in (0, 1))
        w, count, x, xs, y, ys = values[2:]
        width = _width(panels)
        # Even, and a power of two: rows and panels come in such numbers, and none is left over.
        most = min(rows.literal_value, _SUMS // width // 2 * 2)
        beside = 1 << (min(TOGETHER, _SUMS // (most * width)).bit_length() - 1)

        def run(start: ir.Value, stop: ir.Value, group: int) -> None:
            """Panels start .. stop - 1, `group` at a time."""
            with cgutils.for_range_slice(b, start, stop, _I64(group)) as (panel, _):
                there = b.add(w, b.mul(panel, between))
                columns = [b.add(there, b.mul(_I64(p), between)) for p in range(group)]
                out = b.add(y, b.mul(panel, _I64(4 * width)))
                for first in range(0, rows.literal_value, most):
                    at = [b.add(x, b.mul(xs, _I64(first + r))) for r in range(most)]
                    to = [b.add(out, b.mul(ys, _I64(first + r))) for r in range(most)]
                    _tile(b, panels.dtype, columns, below, inputs, at, to)

        whole = b.sub(count, b.srem(count, _I64(beside)))
        run(_I64(0), whole, beside)
        if beside > 1:
            run(whole, count, 1)
        return context.get_dummy_value()

    return types.void(panels, rows, w, count, x, xs, y, ys), code


def _tile(
    b: ir.IRBuilder,
    kind: types.Type,
    panels: list[ir.Value],
    below: ir.Value,
    inputs: ir.Value,
    x: list[ir.Value],
    y: list[ir.Value],
) -> None:
    """The sums of some rows and panels, held in registers over all k. Addresses; `below`: bytes
    from k to k + 1."""
    per_panel = 2 if kind == types.uint32 else 1
    places = [
        [_pointer(b, b.add(row, _I64(64 * v)), _FLOATS) for v in range(per_panel * len(panels))]
        for row in y
    ]
    sums = [[cgutils.alloca_once(b, _FLOATS) for _ in row] for row in places]
    for row, held in zip(places, sums, strict=True):
        for place, total in zip(row, held, strict=True):
            b.store(_load(b, place), total)
    multiply_add = cgutils.get_or_insert_function(
        b.module, ir.FunctionType(_FLOATS, [_FLOATS] * 3), "llvm.fma.v16f32"
    )
    with cgutils.for_range(b, inputs) as loop:
        columns: list[ir.Value] = []
        for panel in panels:
            columns += _read(b, kind, b.add(panel, b.mul(loop.index, below)))
        for row, held in zip(x, sums, strict=True):
            value = _splat(b, _load(b, _pointer(b, b.add(row, b.mul(loop.index, _I64(4))), _F32)))
            for column, total in zip(columns, held, strict=True):
                b.store(b.call(multiply_add, [value, column, b.load(total)]), total)
    for row, held in zip(places, sums, strict=True):
        for place, total in zip(row, held, strict=True):
            b.store(b.load(total), place).align = 4


def _read(b: ir.IRBuilder, kind: types.Type, address: ir.Value) -> list[ir.Value]:
    """One k of a panel, as vectors of 16 floats."""
    if kind == types.float32:
        return [_load(b, _pointer(b, address, _FLOATS))]
    if kind == types.uint16:
        return [b.fpext(_load(b, _pointer(b, address, _HALVES), 2), _FLOATS)]
    words = _load(b, _pointer(b, address, _WORDS))
    low = b.shl(words, ir.Constant(_WORDS, [16] * LANES))
    high = b.and_(words, ir.Constant(_WORDS, [0xFFFF0000] * LANES))
    return [b.bitcast(low, _FLOATS), b.bitcast(high, _FLOATS)]


def _pointer(b: ir.IRBuilder, address: ir.Value, to: ir.Type) -> ir.Value:
    return b.inttoptr(address, to.as_pointer())


def _load(b: ir.IRBuilder, pointer: ir.Value, align: int = 4) -> ir.Value:
    value = b.load(pointer)
    value.align = align
    return value


def _splat(b: ir.IRBuilder, value: ir.Value) -> ir.Value:
    none = ir.Constant(_FLOATS, ir.Undefined)
    first = b.insert_element(none, value, _I32(0))
    return b.shuffle_vector(first, none, ir.Constant(_WORDS, [0] * LANES))


@compiled_sum
def dot(x: NDArray[np.float32], y: NDArray[np.float32]) -> Any:
    """The dot product of y and the first values of x."""
    total = f4(0)
    for j in range(len(y)):
        total += x[j] * y[j]
    return total
