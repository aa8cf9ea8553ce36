"""What a configuration means on a machine."""

from __future__ import annotations

import pytest

from orpheus_plugin import building, doctor
from orpheus_plugin.building import generator_name
from orpheus_plugin.config import EngineConfig


@pytest.mark.parametrize(
    ("config", "device", "vllm", "name"),
    [
        (EngineConfig(), "cpu", True, "torch"),
        (EngineConfig(), "cuda", True, "vllm"),
        (EngineConfig(), "cuda:1", False, "torch"),
        (EngineConfig(urls=("http://there",)), "cuda", True, "completions"),
        (EngineConfig(generator="torch", urls=("http://there",)), "cuda", True, "torch"),
    ],
)
def test_which_token_engine_runs(
    monkeypatch: pytest.MonkeyPatch, config: EngineConfig, device: str, vllm: bool, name: str
) -> None:
    monkeypatch.setattr(building, "vllm_installed", lambda: vllm)
    assert generator_name(config, device) == name


def test_the_doctor_tells_of_the_device_that_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(building, "vllm_installed", lambda: True)
    monkeypatch.setattr("orpheus_plugin.devices.cuda_available", lambda: True)
    assert doctor._why(EngineConfig(device="cpu")) == "torch on the CPU: as asked"
    assert doctor._why(EngineConfig()) == "vLLM on the GPU"
