"""SNAC 24 kHz decoding: exact while streaming, many streams in one step.

`open_decoder` reads a snapshot for a device, `batcher.CodecBatcher` serves it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from orpheus_plugin.codec.step import StreamingDecoder

CodecStep = Literal["plain", "tuned"]
"""Two ways to run the codec's step on a GPU: see `torch.step.TorchDecoder`."""


def open_decoder(
    snapshot: Path, *, device: str = "cpu", slots: int = 32, step: CodecStep = "plain"
) -> StreamingDecoder:
    """The streaming decoder of a SNAC 24 kHz snapshot: compiled loops on a CPU, torch on a GPU.

    Raises what `weights.SnacWeights.load` does.
    """
    from orpheus_plugin.codec.weights import SnacWeights

    weights = SnacWeights.load(snapshot)
    if device == "cpu":
        from orpheus_plugin.codec.cpu.decoder import CpuDecoder

        return CpuDecoder(weights, slots=slots)
    from orpheus_plugin.codec.torch.step import TorchDecoder

    return TorchDecoder(weights, slots=slots, device=device, tuned=step == "tuned")
