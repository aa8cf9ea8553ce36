"""Memory that takes a page from the system when it is written to, and can give pages back while its
address stays."""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


class LazyArray:
    """A zeroed array that only has memory for its pages in use. It begins at a page boundary.

    torch.zeros and numpy.zeros take more: the first writes all of it at once, the second asks for
    pages of 2 MiB, so that one id's keys and values take 2 MiB a layer.
    """

    def __init__(self, sizes: Sequence[int], dtype: DTypeLike) -> None:
        size = math.prod(sizes) * np.dtype(dtype).itemsize
        private = getattr(mmap, "MAP_PRIVATE", None)  # shared memory could not be given back
        if private is None:
            self._map = mmap.mmap(-1, size)
        else:
            self._map = mmap.mmap(-1, size, flags=private | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            with contextlib.suppress(OSError):  # a kernel without huge pages
                self._map.madvise(mmap.MADV_NOHUGEPAGE)
        self.array: NDArray[Any] = np.frombuffer(self._map, dtype).reshape(sizes)

    def give_back(self, part: NDArray[Any]) -> None:
        """Free the whole pages of a contiguous part of `array`. Its values become zeros or stay as
        they were."""
        if not hasattr(mmap, "MADV_DONTNEED"):
            return
        start = part.ctypes.data - self.array.ctypes.data
        end = start + part.nbytes
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        if (length := end // mmap.PAGESIZE * mmap.PAGESIZE - first) > 0:
            self._map.madvise(mmap.MADV_DONTNEED, first, length)
