"""Products with packed matrices: right for any sizes, nothing written outside of the result, the
same bits in any batch."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from llvmlite import binding
from numpy.typing import NDArray

from orpheus_plugin.kernels import products
from orpheus_plugin.kernels.compiled import cpu_has
from orpheus_plugin.kernels.products import aligned, pack, pack_bfloat16
from tests.support.kernels import from_python

Floats = NDArray[np.float32]
add_product = from_python(products.add_product)


def packed(matrix: Floats, kind: str) -> tuple[NDArray[np.generic], Floats]:
    """A packed matrix of a kind, and the values it then has."""
    if kind == "float32":
        return pack(matrix), matrix
    if kind == "float16":
        half = matrix.astype(np.float16)
        return pack(half.astype(np.float32)).astype(np.float16).view(np.uint16), half.astype("f4")
    bits = (matrix.view(np.uint32) >> 16).astype(np.uint16)
    return pack_bfloat16(bits), (bits.astype(np.uint32) << 16).view(np.float32)


KINDS = pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16"])


@KINDS
@pytest.mark.parametrize("sizes", [(1, 1), (5, 4), (33, 20), (64, 64), (7, 130), (100, 33)])
@pytest.mark.parametrize("rows", [1, 2, 3, 6, 7, 8, 21])
def test_it_adds_the_product_and_writes_nothing_else(
    kind: str, sizes: tuple[int, int], rows: int
) -> None:
    inputs, columns = sizes
    rng = np.random.default_rng(rows)
    x = rng.standard_normal((rows, inputs)).astype(np.float32)
    panels, matrix = packed(rng.standard_normal(sizes).astype(np.float32), kind)
    before = rng.standard_normal(rows * columns + 32).astype(np.float32)
    y = before.copy()
    add_product(rows, x, inputs, panels, y, columns)
    wanted = before[:-32].reshape(rows, columns) + x.astype(np.float64) @ matrix
    np.testing.assert_allclose(y[:-32].reshape(rows, columns), wanted, rtol=1e-5, atol=1e-5)
    assert np.array_equal(y[-32:], before[-32:])


@KINDS
def test_a_rows_bits_do_not_depend_on_the_other_rows(kind: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((23, 70)).astype(np.float32)
    panels, _ = packed(rng.standard_normal((70, 150)).astype(np.float32), kind)
    together = np.zeros(23 * 150 + 32, np.float32)
    add_product(23, x, 70, panels, together, 150)
    for first, count in ((0, 1), (1, 2), (3, 3), (6, 7), (13, 10)):
        part = np.zeros(count * 150 + 32, np.float32)
        add_product(count, x[first:], 70, panels, part, 150)
        assert np.array_equal(part[:-32], together[first * 150 : (first + count) * 150])


def test_rows_that_overlap_make_a_convolution() -> None:
    rng = np.random.default_rng(1)
    signal = rng.standard_normal(40 * 3).astype(np.float32)  # 40 rows of 3 channels
    taps = rng.standard_normal((4 * 3, 5)).astype(np.float32)
    y = np.zeros(37 * 5 + 32, np.float32)
    add_product(37, signal, 3, pack(taps), y, 5)
    wanted = [signal[3 * row : 3 * row + 12] @ taps for row in range(37)]
    np.testing.assert_allclose(y[:-32].reshape(37, 5), wanted, rtol=1e-5, atol=1e-5)


def test_the_first_part_of_each_panel_is_a_matrix_too() -> None:
    """How attention reads the values of the positions so far."""
    rng = np.random.default_rng(2)
    matrix = rng.standard_normal((50, 40)).astype(np.float32)
    x = rng.standard_normal((3, 20)).astype(np.float32)
    y = np.zeros(3 * 40 + 32, np.float32)
    add_product(3, x, 20, pack(matrix)[:, :20], y, 40)
    np.testing.assert_allclose(y[:-32].reshape(3, 40), x @ matrix[:20], rtol=1e-5, atol=1e-5)


def test_packed_memory_begins_at_a_cache_line() -> None:
    assert all(aligned((n, 3), np.float32).ctypes.data % 64 == 0 for n in range(1, 50))


@pytest.mark.skipif(not cpu_has("avx512f"), reason="the other tests are compiled for this already")
def test_all_of_this_is_true_of_what_is_compiled_for_avx2() -> None:
    """Its tiles have other sizes."""
    features = binding.get_host_cpu_features()
    kept = ",".join(
        ("+" if has and not name.startswith(("avx512", "avx10", "amx")) else "-") + name
        for name, has in features.items()
    )
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", __file__],
        env=os.environ | {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": kept},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert tests.returncode == 0, tests.stdout
    assert "1 skipped" in tests.stdout
