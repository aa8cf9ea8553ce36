"""SNAC's weights, read from a snapshot and folded into the form the streaming step wants.

Source: SNAC, arXiv 2410.14411; github.com/hubertsiuzdak/snac; weights `hubertsiuzdak/snac_24khz` (MIT).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from orpheus_plugin.codec.layers import Block, Head, Stem
from orpheus_plugin.errors import BadCheckpoint, ModelNotFound

CODEBOOK_SIZE = 4096
SAMPLE_RATE = 24_000
LATENT_SAMPLES = 512
STRIDES = (4, 2, 1)
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True, slots=True)
class SnacConfig:
    """The part of SNAC's `config.json` that shapes the decoder.

    Attributes:
        latent_dim: channels of a latent (768 in snac_24khz).
        decoder_dim: channels before the first block (1024); every block halves them.
        decoder_rates: upsampling of each block; all even, product 512.
        codebook_dim: size of a codebook row before its projection (8).
        noise: whether the blocks have a noise layer.
    """

    latent_dim: int = 768
    decoder_dim: int = 1024
    decoder_rates: tuple[int, ...] = (8, 8, 4, 2)
    codebook_dim: int = 8
    noise: bool = True

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> SnacConfig:
        """Check that `raw` describes a codec Orpheus can use. Raises BadCheckpoint with what is wrong."""
        wanted: dict[str, tuple[Any, Callable[[Any], bool]]] = {
            "sampling_rate": (SAMPLE_RATE, lambda v: v == SAMPLE_RATE),
            "vq_strides": (list(STRIDES), lambda v: list(v) == list(STRIDES)),
            "codebook_size": (CODEBOOK_SIZE, lambda v: v == CODEBOOK_SIZE),
            "attn_window_size": (None, lambda v: v is None),
            "depthwise": (True, lambda v: v is True),
        }
        try:
            for key, (value, fits) in wanted.items():
                if key not in raw or not fits(raw[key]):
                    raise BadCheckpoint(
                        f"not Orpheus' codec (SNAC 24 kHz): {key} is {raw.get(key, 'missing')!r}, wanted {value!r}"
                    )
            rates = tuple(int(rate) for rate in raw["decoder_rates"])
            latent = raw.get("latent_dim")
            if latent is None:
                latent = int(raw["encoder_dim"]) * 2 ** len(raw["encoder_rates"])
            config = cls(
                latent_dim=int(latent),
                decoder_dim=int(raw["decoder_dim"]),
                decoder_rates=rates,
                codebook_dim=int(raw["codebook_dim"]),
                noise=bool(raw.get("noise", True)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BadCheckpoint(f"codec config.json is not SNAC's: {error!r}") from error
        if math.prod(rates) != LATENT_SAMPLES or any(rate < 2 or rate % 2 for rate in rates):
            raise BadCheckpoint(
                f"not Orpheus' codec (SNAC 24 kHz): decoder_rates {list(rates)}; wanted even, product {LATENT_SAMPLES}"
            )
        if min(config.latent_dim, config.codebook_dim) < 1 or config.decoder_dim >> len(rates) < 1:
            raise BadCheckpoint("codec config.json holds a size below 1")
        return config


class SnacDecoder(nn.Module):
    """SNAC's quantiser tables and decoder, weight norm folded, without the encoder.

    Attributes:
        tables: float [3, 4096, latent_dim]: for each level the output projection of every codebook row, so that a
            latent is the sum of three rows.
        stages: stem, blocks, head in order; `layers.py` says how they step.
        delay: samples by which streamed output lags its input: one-sided receptive field, 4757 for rates 8, 8, 4, 2.
    """

    tables: Tensor

    def __init__(self, config: SnacConfig, weights: Mapping[str, Tensor]) -> None:
        """weights: plain tensors named as in SNAC's state dict, weight norm already folded."""
        super().__init__()
        self.config = config
        tables = []
        for level in range(len(STRIDES)):
            prefix = f"quantizer.quantizers.{level}."
            projection = weights[prefix + "out_proj.weight"][..., 0]
            tables.append(
                weights[prefix + "codebook.weight"] @ projection.t()
                + weights[prefix + "out_proj.bias"]
            )
        self.register_buffer("tables", torch.stack(tables))

        def below(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}

        blocks = len(config.decoder_rates)
        stages: list[Stem | Block | Head] = [Stem(below("decoder.model."))]
        for number, rate in enumerate(config.decoder_rates):
            stages.append(Block(below(f"decoder.model.{number + 2}."), rate, noise=config.noise))
        tail = f"decoder.model.{blocks + 2}.", f"decoder.model.{blocks + 3}."
        stages.append(
            Head(weights[tail[0] + "alpha"], weights[tail[1] + "weight"], weights[tail[1] + "bias"])
        )
        self.stages = stages
        self._stages = nn.ModuleList(stages)  # registered, so that .to() reaches them
        self.delay = 0
        for stage in stages:
            self.delay = self.delay * stage.stride + stage.delays[-1]
        self.requires_grad_(False)
        self.eval()

    @property
    def device(self) -> torch.device:
        return self.tables.device

    @property
    def dtype(self) -> torch.dtype:
        return self.tables.dtype

    def embed(self, codes: Tensor) -> Tensor:
        """int64 codes [rows, batch, 3] (coarse, mid, fine) -> latents [rows, batch, latent_dim]."""
        latents = self.tables[0][codes[..., 0]]
        latents += self.tables[1][codes[..., 1]]
        latents += self.tables[2][codes[..., 2]]
        return latents


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


def fold_weights(config: SnacConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Pick the decoder's tensors out of a SNAC state dict and fold its weight norm. Raises BadCheckpoint.

    Understands both spellings of weight norm (`parametrizations.weight.original0/1` and `weight_g/weight_v`) and
    plain weights.
    """
    folded: dict[str, Tensor] = {}
    for name, shape in expected_shapes(config).items():
        stem = name.removesuffix("weight")
        tensor = state.get(name)
        for gain, direction in (
            ("parametrizations.weight.original0", "parametrizations.weight.original1"),
            ("weight_g", "weight_v"),
        ):
            if tensor is None and name.endswith(".weight") and stem + direction in state:
                v, g = state[stem + direction], state.get(stem + gain)
                if g is None or v.dim() != 3 or g.shape != (v.shape[0], 1, 1):
                    raise BadCheckpoint(
                        f"codec weights: {stem}{gain} is missing or of a wrong shape"
                    )
                tensor = torch._weight_norm(v.float(), g.float(), 0)
        if tensor is None:
            raise BadCheckpoint(f"codec weights: {name} is missing")
        if tuple(tensor.shape) != shape:
            raise BadCheckpoint(
                f"codec weights: {name} has shape {list(tensor.shape)}, wanted {list(shape)}"
            )
        tensor = tensor.detach().to(torch.float32)
        if not bool(torch.isfinite(tensor).all()):
            raise BadCheckpoint(f"codec weights: {name} holds NaN or infinity")
        folded[name] = tensor
    return folded


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # both readers raise many kinds for a damaged file
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise BadCheckpoint(f"cannot read codec weights {path}: {reason}") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise BadCheckpoint(f"codec weights {path} are not a dictionary of tensors")
    return state


def load_decoder(
    snapshot: Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> SnacDecoder:
    """Load a SNAC 24 kHz decoder from a directory with `config.json` and `model.safetensors` or `pytorch_model.bin`.

    Nothing is unpickled but tensors. The full-size decoder has 13.0M parameters and its folded tables 9.4M values.

    Raises:
        ModelNotFound: a file is missing.
        BadCheckpoint: the files are damaged, of another codec, or of wrong shapes; one line says which.
    """
    snapshot = Path(snapshot)
    config_path = snapshot / "config.json"
    if not config_path.is_file():
        raise ModelNotFound(f"no codec at {snapshot}: config.json is missing")
    weights_path = next(
        (snapshot / name for name in WEIGHT_FILES if (snapshot / name).is_file()), None
    )
    if weights_path is None:
        raise ModelNotFound(
            f"no codec at {snapshot}: neither {' nor '.join(WEIGHT_FILES)} is there"
        )
    try:
        raw = json.loads(config_path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadCheckpoint(f"cannot read {config_path}: {error}") from error
    if not isinstance(raw, dict):
        raise BadCheckpoint(f"{config_path} is not a JSON object")
    state = _read_state(weights_path)
    try:
        config = SnacConfig.from_dict(raw)
        decoder = SnacDecoder(config, fold_weights(config, state))
    except BadCheckpoint as error:
        raise BadCheckpoint(f"{snapshot}: {error}") from error
    return decoder.to(device=torch.device(device), dtype=dtype)
