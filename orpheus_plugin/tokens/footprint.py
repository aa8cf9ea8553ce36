"""GPU memory that a language model needs, from its files, without loading them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orpheus_plugin.errors import BadCheckpoint

_RUNTIME = 3 << 29
"""1.5 GiB for activations, CUDA graphs and a context: an estimate, not measured."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes on the GPU: weights, attention cache, and what an engine needs to run at all."""

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
            for name, tensor in tensors_in(file).items():
                values = math.prod(tensor["shape"])
                weights += values if eight_bit and "layers" in name else 2 * values
        return cls(weights, cache)


def tensors_in(path: Path) -> dict[str, Any]:
    """The tensors of a safetensors file: by name, `dtype`, `shape` and `data_offsets`.

    Raises BadCheckpoint if it is not such a file, or incomplete: an interrupted download would
    otherwise fail much later, as a stack trace in another process. Layout: 8 bytes little-endian
    length of a JSON header, the header, the tensors (github.com/huggingface/safetensors).
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length < path.stat().st_size else {}
        header.pop("__metadata__", None)
        end = max(entry["data_offsets"][1] for entry in header.values())
        whole = path.stat().st_size == 8 + length + end
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadCheckpoint(f"{path}: not a safetensors file: {error}") from error
    if not whole:
        raise BadCheckpoint(f"{path}: incomplete; download it again")
    return dict(header)
