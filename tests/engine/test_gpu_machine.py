"""What an engine says and does where torch reports a GPU, as far as a machine without one shows
it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from orpheus_plugin.engine.config import EngineConfig
from orpheus_plugin.engine.factory import TORCH_IS_SLOW, build_generator
from orpheus_plugin.engine.local import LocalEngine
from orpheus_plugin.models import files as models
from orpheus_plugin.models.files import HOW_TO_GET_ORPHEUS, ModelFiles
from orpheus_plugin.tokens.torch.generator import TorchLlama
from orpheus_plugin.tokens.vocabulary import Vocabulary
from tests.support.deaths import speak


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


async def test_without_orpheus_files_the_bundled_voice_speaks_and_one_log_line_explains_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The model is chosen for the GPU that is reported; it computes on the processor that is
    here."""
    monkeypatch.setattr(models, "cuda_available", lambda: True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    engine = LocalEngine(EngineConfig(max_turns=1))
    assert warnings(caplog) == [HOW_TO_GET_ORPHEUS]
    await engine.start()
    try:
        assert engine.health().model == "mini"
        assert await speak(engine) > 12_000
    finally:
        await engine.aclose()
    assert warnings(caplog) == [HOW_TO_GET_ORPHEUS]


@pytest.mark.parametrize("vllm", [False, True])
def test_torch_on_a_gpu_is_reported_as_slow(
    vllm: bool,
    crafted_files: ModelFiles,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("orpheus_plugin.engine.factory.vllm_installed", lambda: vllm)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    vocabulary = Vocabulary.load(crafted_files.lm)
    generator = build_generator(EngineConfig(), crafted_files, vocabulary, device="cuda", streams=1)
    assert isinstance(generator, TorchLlama) != vllm
    assert warnings(caplog) == ([] if vllm else [TORCH_IS_SLOW])
