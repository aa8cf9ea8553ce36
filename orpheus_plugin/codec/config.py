"""The shape of SNAC's decoder, and of its output stream. No torch.

Source: SNAC, arXiv 2410.14411; github.com/hubertsiuzdak/snac; weights `hubertsiuzdak/snac_24khz`
(MIT).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from orpheus_plugin.errors import BadCheckpoint

CODEBOOK_SIZE = 4096
SAMPLE_RATE = 24_000
ROW_SAMPLES = 512
"""Samples of a row of codes, and of the latent that the decoder makes of it."""
STRIDES = (4, 2, 1)
KERNEL = 7
DILATIONS = (1, 3, 9)
LARGEST = 1 << 14
"""Channels of any layer."""


@dataclass(frozen=True)
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
        """Check that `raw` describes a codec Orpheus can use. Raises BadCheckpoint with what is
        wrong."""
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
                        f"not Orpheus' codec (SNAC 24 kHz): {key} is {raw.get(key, 'missing')!r},"
                        f" wanted {value!r}"
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
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise BadCheckpoint(f"codec config.json is not SNAC's: {error!r}") from error
        if math.prod(rates) != ROW_SAMPLES or any(rate < 2 or rate % 2 for rate in rates):
            raise BadCheckpoint(
                f"not Orpheus' codec (SNAC 24 kHz): decoder_rates {list(rates)}; wanted even,"
                f" product {ROW_SAMPLES}"
            )
        if max(config.latent_dim, config.decoder_dim, config.codebook_dim) > LARGEST:
            raise BadCheckpoint(f"codec config.json holds a size above {LARGEST}")
        if min(config.latent_dim, config.codebook_dim) < 1 or config.decoder_dim >> len(rates) < 1:
            raise BadCheckpoint("codec config.json has a size below 1")
        return config

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """Stem, blocks, head, in order."""
        width, rate, late = self.decoder_dim, 1, 0
        half = KERNEL // 2
        stages = [Stage(rate, late, 1, width, (half,), ((KERNEL - 1, self.latent_dim),))]
        late += half
        for stride in self.decoder_rates:
            tails = [(1, width)]
            width //= 2
            delays = [stride // 2]
            for dilation in DILATIONS:
                delays.append(delays[-1] + half * dilation)
                tails += [(half * dilation, width), ((KERNEL - 1) * dilation, width)]
            stages.append(Stage(rate, late, stride, width, tuple(delays), tuple(tails)))
            rate, late = rate * stride, late * stride + delays[-1]
        stages.append(Stage(rate, late, 1, 1, (half,), ((KERNEL - 1, width),)))
        return tuple(stages)

    @property
    def delay(self) -> int:
        """Samples by which streamed output lags its input: the one-sided receptive field, 4757 for
        rates 8, 8, 4, 2."""
        return self.stages[-1].late_out

    @property
    def flush_rows(self) -> int:
        """Rows of padding that bring out the tail of a stream."""
        return -(-self.delay // ROW_SAMPLES)

    @property
    def state_floats(self) -> int:
        """Numbers that a stream keeps between two steps."""
        return sum(rows * channels for stage in self.stages for rows, channels in stage.tails)


@dataclass(frozen=True)
class Stage:
    """One stage of the streaming decoder. SNAC's convolutions are centred; here each runs causally:
    it puts the rows that it remembers (its tail) before its input, and emits as many rows as it
    gets, late by its right context.

    Attributes:
        rate: rows in, of each latent.
        late: rows by which its input is late.
        stride: rows out of each row in.
        channels: of a row out.
        delays: rows out by which this stage alone is late, at each point where rows outside the
            stream must become zeros, because the original has zero padding there.
        tails: (rows, channels) that each of its convolutions remembers.
    """

    rate: int
    late: int
    stride: int
    channels: int
    delays: tuple[int, ...]
    tails: tuple[tuple[int, int], ...]

    @property
    def rate_out(self) -> int:
        """Rows out, of each latent."""
        return self.rate * self.stride

    @property
    def late_out(self) -> int:
        """Rows by which the output is late."""
        return self.late * self.stride + self.delays[-1]
