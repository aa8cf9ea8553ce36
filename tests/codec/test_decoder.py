"""A snapshot loads in every spelling of its weights, and a wrong one is refused with one clear
line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from snac import SNAC

import orpheus_plugin
from orpheus_plugin.codec.weights import SnacWeights
from orpheus_plugin.errors import BadCheckpoint, ModelNotFound
from tests.support.codecs import SMALL

from .conftest import Made, random_codes, reference_decode

State = dict[str, torch.Tensor]

BUNDLED = Path(orpheus_plugin.__file__).parent / "mini" / "snac"


def write_snapshot(
    path: Path, state: Any, config: dict[str, Any] | None = None, name: str = "pytorch_model.bin"
) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(SMALL if config is None else config))
    if name.endswith(".bin"):
        torch.save(state, path / name)
    else:
        save_file({key: value.contiguous() for key, value in state.items()}, path / name)
    return path


def old_weight_norm(state: Any) -> State:
    """The spelling of torch.nn.utils.weight_norm."""
    ends = {
        "parametrizations.weight.original0": "weight_g",
        "parametrizations.weight.original1": "weight_v",
    }
    renamed = {}
    for key, value in state.items():
        for new, old in ends.items():
            key = key.replace(new, old)
        renamed[key] = value
    return renamed


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize("spelling", [dict, old_weight_norm])
def test_loads_and_decodes_as_the_reference(
    made: Made, tmp_path: Path, small_reference: SNAC, name: str, spelling: Callable[[State], State]
) -> None:
    snapshot = write_snapshot(tmp_path, spelling(small_reference.state_dict()), name=name)
    codes = random_codes(3)
    got = made(SnacWeights.load(snapshot), slots=1).decode(codes, noise=False)
    np.testing.assert_allclose(got, reference_decode(small_reference, codes), rtol=0, atol=1e-5)


def test_encoder_weights_are_not_needed(tmp_path: Path, small_reference: SNAC) -> None:
    state = {k: v for k, v in small_reference.state_dict().items() if not k.startswith("encoder.")}
    assert SnacWeights.load(write_snapshot(tmp_path, state)).config.delay == 4757


def test_latent_dim_may_be_given(tmp_path: Path, small_reference: SNAC) -> None:
    config = SMALL | {"latent_dim": 32, "encoder_dim": 7}
    assert (
        SnacWeights.load(
            write_snapshot(tmp_path, small_reference.state_dict(), config)
        ).config.latent_dim
        == 32
    )


@pytest.mark.parametrize("missing", ["config.json", "pytorch_model.bin"])
def test_missing_files_are_model_not_found(
    tmp_path: Path, small_reference: SNAC, missing: str
) -> None:
    (write_snapshot(tmp_path, small_reference.state_dict()) / missing).unlink()
    with pytest.raises(ModelNotFound, match=missing.replace(".", r"\.")):
        SnacWeights.load(tmp_path)
    with pytest.raises(ModelNotFound):
        SnacWeights.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"sampling_rate": 44100}, "sampling_rate"),
        ({"vq_strides": [8, 4, 2, 1]}, "vq_strides"),
        ({"vq_strides": None}, "SNAC"),
        ({"attn_window_size": 32}, "attn_window_size"),
        ({"codebook_size": 1024}, "codebook_size"),
        ({"depthwise": False}, "depthwise"),
        ({"decoder_rates": [7, 7, 3, 3]}, "decoder_rates"),
        ({"decoder_rates": [8, 8, 4]}, "decoder_rates"),
        ({"decoder_rates": "fast"}, "SNAC"),
        ({"decoder_dim": 8}, "below 1"),
        ({"decoder_dim": 1 << 40}, "above"),
        ({"latent_dim": 1 << 40}, "above"),
        ({"codebook_dim": 1e300}, "above"),
        ({"decoder_dim": 128}, "shape"),
        ({"encoder_dim": 3}, "shape"),
    ],
)
def test_another_codec_is_refused_in_one_line(
    tmp_path: Path, small_reference: SNAC, change: dict[str, Any], says: str
) -> None:
    snapshot = write_snapshot(tmp_path, small_reference.state_dict(), SMALL | change)
    with pytest.raises(BadCheckpoint, match=says) as caught:
        SnacWeights.load(snapshot)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "{}", '"snac"', "\x00"])
def test_a_broken_config_is_refused(tmp_path: Path, small_reference: SNAC, text: str) -> None:
    (write_snapshot(tmp_path, small_reference.state_dict()) / "config.json").write_text(text)
    with pytest.raises(BadCheckpoint):
        SnacWeights.load(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04" + b"\x00" * 200])
def test_damaged_weights_are_refused_in_one_line(
    tmp_path: Path, small_reference: SNAC, name: str, content: bytes
) -> None:
    snapshot = write_snapshot(tmp_path, small_reference.state_dict(), name=name)
    (snapshot / name).write_bytes(content)
    with pytest.raises(BadCheckpoint, match="cannot read") as caught:
        SnacWeights.load(snapshot)
    assert "\n" not in caught.value.message


def test_truncated_weights_are_refused(tmp_path: Path, small_reference: SNAC) -> None:
    for name in ("pytorch_model.bin", "model.safetensors"):
        file = write_snapshot(tmp_path / name, small_reference.state_dict(), name=name) / name
        file.write_bytes(file.read_bytes()[:-1000])
        with pytest.raises(BadCheckpoint):
            SnacWeights.load(file.parent)


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("executed",)


def test_pickled_code_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadCheckpoint):
        SnacWeights.load(write_snapshot(tmp_path, {"decoder.model.0.bias": Payload()}))
    assert "executed" not in capsys.readouterr().out


def test_missing_wrong_and_non_finite_tensors_are_named(
    tmp_path: Path, small_reference: SNAC
) -> None:
    name = "decoder.model.2.block.1.bias"
    good = small_reference.state_dict()
    cases = {
        "missing": {k: v for k, v in good.items() if k != name},
        "shape": good | {name: torch.zeros(3)},
        "NaN": good | {name: torch.full_like(good[name], float("nan"))},
    }
    for says, state in cases.items():
        with pytest.raises(BadCheckpoint, match=says) as caught:
            SnacWeights.load(write_snapshot(tmp_path, state))
        assert name in caught.value.message
    with pytest.raises(BadCheckpoint, match="dictionary"):
        SnacWeights.load(write_snapshot(tmp_path, [torch.zeros(1)]))


@pytest.mark.skipif(
    not (BUNDLED / "config.json").is_file(), reason="the bundled voice is not there"
)
def test_the_bundled_voices_codec_streams_exactly(made: Made) -> None:
    config = json.loads((BUNDLED / "config.json").read_text())
    reference = SNAC(**config).eval()
    reference.load_state_dict(load_file(BUNDLED / "model.safetensors"))
    codes = random_codes(4)
    streaming = made(SnacWeights.load(BUNDLED), slots=1)
    got = streaming.decode(codes, noise=False, chunk=3)
    np.testing.assert_allclose(got, reference_decode(reference, codes), rtol=0, atol=1e-5)
