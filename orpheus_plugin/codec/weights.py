"""SNAC's weights, read from a snapshot and folded, in NumPy. Shared by the steps of all devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orpheus_plugin.codec.config import CODEBOOK_SIZE, STRIDES, SnacConfig
from orpheus_plugin.errors import BadCheckpoint, ModelNotFound
from orpheus_plugin.json_files import read_object
from orpheus_plugin.tensors import Tensor, float32, read_pickled, read_safetensors

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")

Folded = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class SnacWeights:
    """The decoder of a snapshot, and its quantiser, without the encoder.

    Attributes:
        tensors: by the names of SNAC's state dict, weight norm folded: "decoder.model.0.weight",
            ...
        tables: float32 [3, 4096, latent_dim]: for each level the output projection of every
            codebook row, so that a latent is the sum of three rows.
    """

    config: SnacConfig
    tensors: Folded

    @classmethod
    def from_state(cls, config: SnacConfig, state: Mapping[str, Tensor]) -> SnacWeights:
        """Pick and fold what the decoder needs. Raises BadCheckpoint."""
        return cls(config, fold_weights(config, state))

    @classmethod
    def load(cls, snapshot: Path) -> SnacWeights:
        """Read a directory with `config.json` and `model.safetensors` or `pytorch_model.bin`.

        Nothing is unpickled but tensors. The full-size decoder has 13.0M parameters, its tables
        9.4M values.

        Raises:
            ModelNotFound: a file is missing.
            BadCheckpoint: the files are damaged, of another codec, or of wrong shapes.
        """
        snapshot = Path(snapshot)
        config_path = snapshot / "config.json"
        if not config_path.is_file():
            raise ModelNotFound(f"no codec at {snapshot}: config.json is missing")
        found = [snapshot / name for name in WEIGHT_FILES if (snapshot / name).is_file()]
        if not found:
            raise ModelNotFound(
                f"no codec at {snapshot}: neither {' nor '.join(WEIGHT_FILES)} is there"
            )
        raw = read_object(config_path)
        read = read_safetensors if found[0].suffix == ".safetensors" else read_pickled
        try:
            state = read(found[0])
        except BadCheckpoint as error:
            raise BadCheckpoint(f"cannot read codec weights {error.message}") from error
        try:
            return cls.from_state(SnacConfig.from_dict(raw), state)
        except BadCheckpoint as error:
            raise BadCheckpoint(f"{snapshot}: {error.message}") from error

    @property
    def tables(self) -> NDArray[np.float32]:
        levels = []
        for level in range(len(STRIDES)):
            prefix = f"quantizer.quantizers.{level}."
            projection = self.tensors[prefix + "out_proj.weight"][..., 0]
            rows = self.tensors[prefix + "codebook.weight"] @ projection.T
            levels.append(rows + self.tensors[prefix + "out_proj.bias"])
        return np.stack(levels)

    def below(self, prefix: str) -> Folded:
        """The tensors whose names begin with `prefix`, by their names without it."""
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(prefix)
        }


def expected_shapes(config: SnacConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes, after folding, of every tensor the decoder needs."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, *shape: int, bias: int | None) -> None:
        shapes[name + ".weight"] = shape
        if bias is not None:
            shapes[name + ".bias"] = (bias,)

    for level in range(len(STRIDES)):
        prefix = f"quantizer.quantizers.{level}."
        shapes[prefix + "codebook.weight"] = (CODEBOOK_SIZE, config.codebook_dim)
        conv(prefix + "out_proj", config.latent_dim, config.codebook_dim, 1, bias=config.latent_dim)
    conv("decoder.model.0", config.latent_dim, 1, 7, bias=config.latent_dim)
    conv("decoder.model.1", config.decoder_dim, config.latent_dim, 1, bias=config.decoder_dim)
    width = config.decoder_dim
    for number, rate in enumerate(config.decoder_rates):
        block, half = f"decoder.model.{number + 2}.block.", width // 2
        shapes[block + "0.alpha"] = (1, width, 1)
        conv(block + "1", width, half, 2 * rate, bias=half)
        if config.noise:
            conv(block + "2.linear", half, half, 1, bias=None)
        for unit in range(3):
            inner = f"{block}{unit + (3 if config.noise else 2)}.block."
            shapes[inner + "0.alpha"] = shapes[inner + "2.alpha"] = (1, half, 1)
            conv(inner + "1", half, 1, 7, bias=half)
            conv(inner + "3", half, half, 1, bias=half)
        width = half
    last = len(config.decoder_rates) + 2
    shapes[f"decoder.model.{last}.alpha"] = (1, width, 1)
    conv(f"decoder.model.{last + 1}", 1, width, 7, bias=1)
    return shapes


def fold_weights(config: SnacConfig, state: Mapping[str, Tensor]) -> Folded:
    """Pick the decoder's tensors out of a SNAC state dict and fold its weight norm. Raises
    BadCheckpoint.

    Understands both spellings of weight norm (`parametrizations.weight.original0/1` and
    `weight_g/weight_v`) and plain weights.
    """
    folded: Folded = {}
    for name, shape in expected_shapes(config).items():
        stem = name.removesuffix("weight")
        tensor = state.get(name)
        for gain, direction in (
            ("parametrizations.weight.original0", "parametrizations.weight.original1"),
            ("weight_g", "weight_v"),
        ):
            if tensor is None and name.endswith(".weight") and stem + direction in state:
                v, g = state[stem + direction], state.get(stem + gain)
                if g is None or v.ndim != 3 or g.shape != (v.shape[0], 1, 1):
                    raise BadCheckpoint(
                        f"codec weights: {stem}{gain} is missing or of a wrong shape"
                    )
                v, g = float32(v), float32(g)
                tensor = v * (g / np.sqrt((v * v).sum(axis=(1, 2), keepdims=True)))
        if tensor is None:
            raise BadCheckpoint(f"codec weights: {name} is missing")
        if tensor.shape != shape:
            raise BadCheckpoint(
                f"codec weights: {name} has shape {list(tensor.shape)}, wanted {list(shape)}"
            )
        folded[name] = np.ascontiguousarray(float32(tensor))
        if not np.isfinite(folded[name]).all():
            raise BadCheckpoint(f"codec weights: {name} holds NaN or infinity")
    return folded
