"""Memory that takes from the system what is written to, page by page, and can give it back while its place stays."""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Sequence

import torch

Tensor = torch.Tensor


class LazyTensor:
    """A zeroed CPU tensor of which only the pages in use are held.

    torch.zeros and numpy.zeros hold more: the one writes all of it at once, the other asks for pages of 2 MiB, so that one
    id's keys and values take 2 MiB a layer.
    """

    def __init__(self, sizes: Sequence[int], dtype: torch.dtype) -> None:
        size = math.prod(sizes) * dtype.itemsize
        private = getattr(mmap, "MAP_PRIVATE", None)  # shared memory could not be given back
        if private is None:
            self._map = mmap.mmap(-1, size)
        else:
            self._map = mmap.mmap(-1, size, flags=private | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            with contextlib.suppress(OSError):  # a kernel without huge pages
                self._map.madvise(mmap.MADV_NOHUGEPAGE)
        self.tensor = torch.frombuffer(self._map, dtype=dtype).view(*sizes)

    def give_back(self, part: Tensor) -> None:
        """Free the whole pages of a contiguous part of `tensor`, whose values are lost: zeros, or what they were."""
        if not hasattr(mmap, "MADV_DONTNEED"):
            return
        start = part.data_ptr() - self.tensor.data_ptr()
        end = start + part.numel() * part.itemsize
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        if (length := end // mmap.PAGESIZE * mmap.PAGESIZE - first) > 0:
            self._map.madvise(mmap.MADV_DONTNEED, first, length)
