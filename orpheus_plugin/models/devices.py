"""Which hardware and which optional engines this process has, asked without loading more than needed."""

from __future__ import annotations

import importlib.util
import re

from orpheus_plugin.errors import InvalidOptions


def cuda_available() -> bool:
    """Whether torch is installed and sees an NVIDIA GPU."""
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())


def vllm_installed() -> bool:
    return importlib.util.find_spec("vllm") is not None


def pick_device(name: str) -> str:
    """ "auto" becomes "cuda" or "cpu"; others are checked. Raises InvalidOptions."""
    if name == "auto":
        return "cuda" if cuda_available() else "cpu"
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise InvalidOptions(f"device must be auto, cpu, cuda, cuda:N or mps, not {name!r}")
    if name.startswith("cuda") and not cuda_available():
        raise InvalidOptions(f"device {name!r} was asked for, but torch sees no NVIDIA GPU here")
    if ":" in name:
        import torch

        count = torch.cuda.device_count()
        if int(name.partition(":")[2]) >= count:
            raise InvalidOptions(f"device {name!r} was asked for, but torch sees {count} GPU(s)")
    return name


def compute_alone() -> None:
    """Have torch's CPU operations run on the calling thread and no other. For each thread that runs a model.

    torch keeps one figure for the process, but OpenMP one for each thread, which adopts torch's only in some operations.
    Codec and token engine run at the same time, and several turns already fill a core: two threads on two cores took 1.0
    to 1.6 times as long for a frame of the codec; beside other work 2.2 times for one stream, though 0.7 times for eight
    of full size.
    """
    import torch

    torch.set_num_threads(1)
