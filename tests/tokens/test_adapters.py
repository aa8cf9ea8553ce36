"""Reading an adapter's files, and the errors for files that are refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from orpheus_plugin.errors import BadCheckpoint, ModelNotFound
from orpheus_plugin.tokens.adapters import Adapter, read_adapter, stacked
from orpheus_plugin.tokens.llama import LlamaShape
from orpheus_plugin.tokens.vllm.options import lora_args
from tests.support.adapters import random_adapter, tensor_name
from tests.support.checkpoints import SMALL_TEXT, crafted_checkpoint


@pytest.fixture(scope="module")
def checkpoint() -> Path:
    return crafted_checkpoint(text=SMALL_TEXT)


@pytest.fixture
def adapter(checkpoint: Path, tmp_path: Path) -> Path:
    return random_adapter(checkpoint, tmp_path / "adapter", rank=4)


def read(folder: Path, checkpoint: Path) -> Adapter:
    return read_adapter(folder, checkpoint, LlamaShape.read(checkpoint))


def say(folder: Path, **values: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def rewrite(folder: Path, **changes: torch.Tensor | None) -> None:
    """Set tensors of the file; None leaves one out."""
    path = folder / "adapter_model.safetensors"
    tensors = {k: t for k, t in (load_file(path) | changes).items() if t is not None}
    save_file(tensors, path)


A = tensor_name(0, "q_proj", "A")
B = tensor_name(0, "q_proj", "B")


def test_an_adapter_gives_its_matrices_with_the_scale_of_peft(
    adapter: Path, checkpoint: Path
) -> None:
    say(adapter, lora_alpha=12, rank_pattern={"layers.1.v_proj": 4}, alpha_pattern={"o_proj": 2})
    stored = load_file(adapter / "adapter_model.safetensors")
    found = read(adapter, checkpoint)
    assert (found.rank, len(found.modules)) == (4, 7)
    for module, scale in (("q_proj", 3.0), ("o_proj", 0.5)):
        part = found.part(1, module)
        assert part is not None
        np.testing.assert_array_equal(part.down, stored[tensor_name(1, module, "A")])
        np.testing.assert_allclose(part.up, scale * stored[tensor_name(1, module, "B")], rtol=1e-6)
    say(adapter, use_rslora=True)
    part = read(adapter, checkpoint).part(0, "q_proj")
    assert part is not None
    np.testing.assert_allclose(part.up, 6 * stored[B], rtol=1e-6)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64])
def test_any_floating_point_type_will_do(
    adapter: Path, checkpoint: Path, kind: torch.dtype
) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file({k: t.to(kind) for k, t in tensors.items()}, adapter / "adapter_model.safetensors")
    part = read(adapter, checkpoint).part(0, "q_proj")
    assert part is not None
    np.testing.assert_array_equal(part.down, tensors[A].to(kind).float())


def test_a_part_of_the_matrices_is_enough(checkpoint: Path, tmp_path: Path) -> None:
    some = read(random_adapter(checkpoint, tmp_path / "a", modules=("v_proj",)), checkpoint)
    assert some.modules == ("v_proj",)
    assert some.part(0, "q_proj") is None
    shape = LlamaShape.read(checkpoint)
    down, up = stacked([some], shape, ("q_proj", "k_proj", "v_proj"), multiple=16)
    assert (down.shape[3], up.shape[2]) == (16, 16)
    part = some.part(1, "v_proj")
    assert part is not None
    width = (shape.heads + shape.kv_heads) * shape.head_dim
    product = up[0, 1].T @ down[0, 1].T
    np.testing.assert_allclose(product[width:], part.up @ part.down, rtol=1e-5, atol=1e-6)
    assert not product[:width].any()


def test_vllm_gets_the_arguments_for_adapters(checkpoint: Path, tmp_path: Path) -> None:
    wide = random_adapter(checkpoint, tmp_path / "wide", rank=40, modules=("q_proj", "v_proj"))
    narrow = random_adapter(checkpoint, tmp_path / "narrow", rank=2, modules=("down_proj",))
    args = lora_args([read(wide, checkpoint), read(narrow, checkpoint)], on_cpu=False)
    assert args == {
        "enable_lora": True,
        "max_loras": 2,
        "max_cpu_loras": 2,
        "max_lora_rank": 64,
        "lora_target_modules": ["down_proj", "q_proj", "v_proj"],
    }
    assert lora_args([read(wide, checkpoint)], on_cpu=True)["max_loras"] == 2
    assert lora_args([], on_cpu=True) == {}


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"peft_type": "IA3"}, "only LORA"),
        ({"r": 0}, "rank r is 0"),
        ({"r": None}, "rank r is None"),
        ({"r": "8"}, "rank r is '8'"),
        ({"r": True}, "rank r is True"),
        ({"r": 513}, "rank r is 513"),
        ({"r": 8}, "has rank 4"),
        ({"rank_pattern": {"q_proj": 2}}, "has rank 4"),
        ({"rank_pattern": ["q_proj"]}, "rank_pattern"),
        ({"alpha_pattern": {"(": 2}}, "alpha_pattern"),
        ({"lora_alpha": None}, "lora_alpha is None"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
        ({"use_dora": True}, "DoRA.*merge_and_unload"),
        ({"bias": "lora_only"}, "biases"),
        ({"lora_bias": True}, "biases"),
        ({"modules_to_save": ["lm_head", "embed_tokens"]}, "whole modules.*merge_and_unload"),
        ({"init_lora_weights": "pissa_niter_16"}, "own weights.*merge_and_unload"),
        ({"trainable_token_indices": [3]}, "embeddings"),
        ({"fan_in_fan_out": True}, "transposed"),
    ],
)
def test_unsupported_kinds_of_adapters_are_refused(
    adapter: Path, checkpoint: Path, said: dict[str, Any], why: str
) -> None:
    say(adapter, **said)
    with pytest.raises(BadCheckpoint, match=why):
        read(adapter, checkpoint)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({B: None}, "only one of lora_A and lora_B"),
        ({A: torch.zeros(4, 65)}, "another model"),
        ({B: torch.zeros(65, 4)}, "another model.*someone/a-base"),
        ({A: torch.zeros(4)}, "another model"),
        ({tensor_name(2, "q_proj", "A"): torch.zeros(4, 64),
          tensor_name(2, "q_proj", "B"): torch.zeros(64, 4)}, "another model.*2 layers"),
        ({B: torch.full((64, 4), float("nan"))}, "not finite numbers"),
        ({A: torch.zeros(4, 64, dtype=torch.int8)}, "not floating point"),
        ({"base_model.model.lm_head.lora_A.weight": torch.zeros(4, 64)}, "changes lm_head.*merge"),
        ({"base_model.model.model.embed_tokens.lora_embedding_A": torch.zeros(4, 64)},
         "changes embed_tokens.*merge"),
        ({A.replace("q_proj", "experts"): torch.zeros(4, 64)}, "no matrix of a Llama"),
        ({A.replace("lora_A", "lora_magnitude_vector"): torch.zeros(64)}, "no matrix of a Llama"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit_are_refused(
    adapter: Path, checkpoint: Path, changes: dict[str, torch.Tensor | None], why: str
) -> None:
    rewrite(adapter, **changes)
    with pytest.raises(BadCheckpoint, match=why):
        read(adapter, checkpoint)


def test_a_pickle_is_not_opened(adapter: Path, checkpoint: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "opened",))

    (adapter / "adapter_model.safetensors").unlink()
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(BadCheckpoint, match="safe_serialization=True"):
        read(adapter, checkpoint)
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize(
    "content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"x" * 99]
)
def test_damaged_weights_are_reported(adapter: Path, checkpoint: Path, content: bytes) -> None:
    (adapter / "adapter_model.safetensors").write_bytes(content)
    with pytest.raises(BadCheckpoint, match=r"adapter_model\.safetensors"):
        read(adapter, checkpoint)


def test_folders_that_are_not_adapters_are_told_apart(
    adapter: Path, checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelNotFound, match=r"whole model.*--model"):
        read(checkpoint, checkpoint)
    with pytest.raises(ModelNotFound, match=r"no adapter_config\.json"):
        read(tmp_path, checkpoint)
    (adapter / "adapter_config.json").write_text("[1]")
    with pytest.raises(BadCheckpoint, match="not a JSON object"):
        read(adapter, checkpoint)
    say_nothing = adapter / "adapter_model.safetensors"
    say_nothing.unlink()
    with pytest.raises(BadCheckpoint, match=r"no adapter_model\.safetensors"):
        read(adapter, checkpoint)
