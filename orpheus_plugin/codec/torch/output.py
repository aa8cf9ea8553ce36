"""Samples from the device to the host."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

RING = 4
"""Buffers. Two steps are in flight and a third one's samples are being read; with fewer a step
would write over them."""


def on_host(audio: Tensor) -> NDArray[np.float32]:
    """The samples. Waits for them, and for nothing else; a GPU writes them into pinned memory."""
    audio = audio.float()
    if audio.device.type != "cuda":
        return audio.numpy()
    host = torch.empty(audio.shape, pin_memory=True).copy_(audio, non_blocking=True)
    torch.cuda.current_stream(audio.device).synchronize()
    return host.numpy()


class OutputRing:
    """Buffers of pinned memory that a GPU writes, one after the other, each with an event of its
    own.

    A step's samples are waited for while the next step computes. Not thread-safe.
    """

    def __init__(self, device: torch.device) -> None:
        self._pinned = device.type == "cuda"
        self._buffers = [torch.empty(0) for _ in range(RING)]
        self._events: list[torch.cuda.Event] = []
        if self._pinned:
            self._events = [torch.cuda.Event(blocking=True) for _ in range(RING)]  # type: ignore[no-untyped-call]
        self._next = 0

    def take(self, audio: Tensor) -> Callable[[], NDArray[np.float32]]:
        """Begin to copy samples on the current stream. Returns a function that waits for them.

        Its array is valid until RING more copies are begun.
        """
        number = self._next
        self._next = (number + 1) % RING
        if self._buffers[number].numel() < audio.numel():
            self._buffers[number] = torch.empty(audio.numel(), pin_memory=self._pinned)
        host = self._buffers[number][: audio.numel()].view(audio.shape)
        host.copy_(audio, non_blocking=self._pinned)
        if self._pinned:
            self._events[number].record(torch.cuda.current_stream(audio.device))

        def samples() -> NDArray[np.float32]:
            if self._pinned:
                self._events[number].synchronize()
            return host.numpy()

        return samples
