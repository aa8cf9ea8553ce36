"""Training can go on from the shipped files."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from benchmarks.mini_voice import MODEL
from training.export import llama_state
from training.lm import Size, VoiceModel
from training.restore import restore


def test_a_checkpoint_restored_from_the_shipped_files_exports_the_same_files(
    tmp_path: Path,
) -> None:
    restore(MODEL, tmp_path)
    saved = torch.load(tmp_path / "lm.pt", weights_only=True)
    net = VoiceModel(Size(**saved["size"]))
    net.load_state_dict(saved["average"])
    shipped = load_file(MODEL / "model.safetensors")
    again = llama_state(net)
    assert again.keys() == shipped.keys()
    for name, weight in shipped.items():
        if name == "model.embed_tokens.weight":  # sums of parts, rounded once more
            torch.testing.assert_close(again[name], weight, atol=0.02, rtol=0.01)
        else:
            assert torch.equal(again[name], weight), name


def test_an_existing_checkpoint_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "lm.pt").write_bytes(b"hours of work")
    restore(MODEL, tmp_path)
    assert (tmp_path / "lm.pt").read_bytes() == b"hours of work"
