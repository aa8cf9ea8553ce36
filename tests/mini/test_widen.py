"""Two decoders side by side sound like the first, and training can continue from the shipped
one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.mini_voice import MODEL
from tests.mini.test_recipe import codes_of_a_melody
from training import decoder
from training.codec import CONFIG, Codec
from training.export import export
from training.picture import decode
from training.restore import restore
from training.widen import join


def shape(encoder_dim: int, width: int, rows: int) -> dict[str, Any]:
    return {**CONFIG, "encoder_dim": encoder_dim, "decoder_dim": width, "codebook_dim": rows}


FIRST, SECOND = shape(2, 64, 8), shape(1, 32, 4)


def features(codec: Codec, noise: list[torch.Tensor]) -> list[torch.Tensor]:
    latents = codec.latents(codes_of_a_melody()).transpose(1, 2)
    return decoder.features(codec.decoder, latents, noise, 4)


@torch.no_grad()
def test_a_joined_decoder_sounds_as_the_first_and_has_the_features_of_the_second() -> None:
    torch.manual_seed(0)
    first, second = Codec(FIRST), Codec(SECOND)
    wide = join(first, second)
    assert wide.config == shape(3, 96, 12)
    noise = decoder.noises(1, 32, CONFIG["decoder_rates"])
    of_first, of_second, of_both = (features(codec, noise) for codec in (first, second, wide))
    wanted = decoder.waveform(first.decoder, of_first[3])
    assert wanted.abs().max() > 0
    torch.testing.assert_close(decoder.waveform(wide.decoder, of_both[3]), wanted)
    for a, b, both in zip(of_first, of_second, of_both, strict=True):
        torch.testing.assert_close(both, torch.cat([a, b], -1), atol=1e-4, rtol=1e-4)


def test_a_joined_decoder_learns_to_use_what_lies_beside_it() -> None:
    torch.manual_seed(0)
    wide = join(Codec(FIRST), Codec(SECOND))
    wide(codes_of_a_melody()).square().mean().backward()
    across = wide.decoder.model[1].weight.grad[:64, 32:]
    assert across.abs().max() > 0


def test_codecs_of_two_kinds_are_not_joined() -> None:
    with pytest.raises(ValueError, match="side by side"):
        join(Codec(FIRST), Codec({**SECOND, "noise": False}))


def test_a_codec_restored_from_the_shipped_files_exports_the_same_sound(tmp_path: Path) -> None:
    restore(MODEL, tmp_path, "codec")
    export(tmp_path, tmp_path / "again")
    codes = codes_of_a_melody(2)[0].numpy()
    shipped, again = (decode(folder / "snac", codes) for folder in (MODEL, tmp_path / "again"))
    np.testing.assert_allclose(again, shipped, atol=1e-5)
