"""GPU memory that a language model needs, from its files, without loading them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from orpheus_plugin.tensors import read_safetensors

_RUNTIME = 3 << 29
"""1.5 GiB for activations, CUDA graphs and a context: an estimate, not measured."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes on the GPU: weights, attention cache, and the runtime of an engine."""

    weights: int
    cache: int
    runtime: int = _RUNTIME

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.runtime

    @classmethod
    def of(cls, model_dir: Path, *, cache: int, eight_bit: bool = False) -> Footprint:
        """For 16-bit weights; `eight_bit`: those of the layers, not the embedding and the head,
        take half of that.

        Raises BadCheckpoint for a damaged weights file.
        """
        weights = 0
        for file in sorted(model_dir.glob("*.safetensors")):
            for name, tensor in read_safetensors(file).items():
                weights += tensor.size * (1 if eight_bit and "layers" in name else 2)
        return cls(weights, cache)
