"""Which hardware and which optional engines this process has, found out without loading more than
is needed."""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import re
import shutil
from pathlib import Path

from orpheus_plugin.errors import InvalidOptions

logger = logging.getLogger(__name__)


_GPU_NODES = ("/dev/nvidiactl", "/dev/nvgpu", "/dev/nvhost-gpu", "/dev/dxg", "/dev/kfd")
"""Files of a driver with which torch could find a GPU: NVIDIA's, on Tegra, in WSL, AMD's."""

_INSTALL = "pip install 'orpheus_plugin[gpu]'"


def may_have_gpu() -> bool:
    """Whether there is a GPU driver. Costs microseconds; asking torch costs seconds."""
    return os.name == "nt" or any(Path(node).exists() for node in _GPU_NODES)


def torch_installed() -> bool:
    return importlib.util.find_spec("torch") is not None


def cuda_available() -> bool:
    """Whether torch is installed and sees a GPU. Imports torch only if there may be one."""
    if not (may_have_gpu() and torch_installed()):
        return False
    import torch

    return bool(torch.cuda.is_available())


def nvidia_driver() -> bool:
    return Path("/dev/nvidiactl").exists()


@functools.cache
def warn_of_unused_gpu() -> None:
    """Log one line, once, if there is an NVIDIA GPU and nothing to use it with."""
    if nvidia_driver() and not torch_installed():
        logger.warning(
            "This machine has an NVIDIA GPU, but torch is not installed, so the CPU is used: %s",
            _INSTALL,
        )


def vllm_installed() -> bool:
    return importlib.util.find_spec("vllm") is not None


def pick_device(name: str) -> str:
    """ "auto" becomes "cuda" or "cpu"; others are checked. Raises InvalidOptions."""
    if name == "auto":
        warn_of_unused_gpu()
        return "cuda" if cuda_available() else "cpu"
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise InvalidOptions(f"device must be auto, cpu, cuda, cuda:N or mps, not {name!r}")
    if name != "cpu" and not torch_installed():
        raise InvalidOptions(f"device {name!r} needs torch, which is not installed: {_INSTALL}")
    if name.startswith("cuda") and not cuda_available():
        raise InvalidOptions(f"device {name!r} was asked for, but torch sees no NVIDIA GPU here")
    if ":" in name:
        import torch

        count = torch.cuda.device_count()
        if int(name.partition(":")[2]) >= count:
            raise InvalidOptions(f"device {name!r} was asked for, but torch sees {count} GPU(s)")
    return name


def compiler_missing(device: str) -> str | None:
    """What torch.compile and Triton lack here for a "cpu" or "cuda" device; None if they have what
    they need."""
    if device == "cuda" and importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if compiler(device) is None:
        return f"there is no compiler ({' or '.join(_compiler_names(device))})"
    return None


def compiler(device: str) -> str | None:
    """The path of the compiler that torch.compile and Triton use for a "cpu" or "cuda" device:
    C++ for a CPU, C for the code that starts CUDA kernels."""
    return next((path for name in _compiler_names(device) if (path := shutil.which(name))), None)


def _compiler_names(device: str) -> tuple[str, ...]:
    if asked := os.environ.get("CXX" if device == "cpu" else "CC"):
        return (asked,)
    return ("g++", "clang++") if device == "cpu" else ("gcc", "clang")


def compute_alone() -> None:
    """Run torch's CPU operations on the calling thread only. Call it on each thread that runs a
    model.

    torch has one number of threads for the process, but OpenMP has one for each thread and adopts
    torch's only in some operations. Codec and token engine run at the same time, and several turns
    fill a core: with two threads on two cores a frame of the codec took 1.0 to 1.6 times as long;
    beside other work 2.2 times for one stream, and 0.7 times for eight of full size.
    """
    import torch

    torch.set_num_threads(1)
