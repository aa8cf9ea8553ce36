"""The wheel, the images and the site work without a checkout."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import scripts

pytestmark = pytest.mark.deploy

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "deploy/docker"
NOT_HERE = ("useradd", "apt-get")
"""RUN lines that begin so change the machine; they are not run."""


def run(*command: object, **options: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def installer() -> Any:
    return scripts.load(ROOT / ".ci/install.py")


@pytest.fixture(scope="module")
def fresh(installer: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An empty environment, and what installs into it."""
    environment = installer.Environment(tmp_path_factory.mktemp("fresh") / "env")
    environment.create()
    environment.find_installer()
    return environment


def speaks(python: Path, folder: Path) -> None:
    """The installed command speaks outside of the checkout."""
    command = python.with_name("orpheus-tts")
    run(command, "say", "Hello there, my friend.", "-o", "said.wav", "--model", "mini", cwd=folder)
    assert (folder / "said.wav").stat().st_size > 48_000 * 0.5
    assert "speaks: " in run(command, "doctor", "--model", "mini", cwd=folder).stdout


def test_the_built_wheel_speaks_in_a_fresh_environment(fresh: Any, tmp_path: Path) -> None:
    dist = tmp_path / "dist"
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, ROOT)
    run(sys.executable, "-m", "twine", "check", "--strict", *dist.iterdir())
    [wheel], [_source] = dist.glob("*.whl"), dist.glob("*.tar.gz")
    assert wheel.stat().st_size < 60e6
    ok, said = fresh.install(f"{wheel}[server]", quiet=True)
    assert ok, said
    speaks(fresh.python, tmp_path)
    run(
        fresh.python,
        "-c",
        "import orpheus_plugin.server.process, sys; assert 'torch' not in sys.modules",
    )


def test_the_documentation_is_built_without_a_warning(tmp_path: Path) -> None:
    for name in ("docs", "orpheus_plugin", "zensical.toml", "CONTRIBUTING.md", "CHANGELOG.md"):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / name)
    zensical = Path(sys.executable).with_name("zensical")
    done = run(zensical, "build", "--strict", cwd=tmp_path)
    said = done.stdout + done.stderr
    assert "No issues found" in said
    assert not re.search(r"griffe|warning", said, re.IGNORECASE), said
    for page in (ROOT / "docs").rglob("*.md"):
        assert (tmp_path / "site" / page.relative_to(ROOT / "docs")).with_suffix(".html").exists()
    reference = (tmp_path / "site/reference.html").read_text("utf-8")
    for name in ("RemoteEngine", "LocalEngine", "OrpheusTTS", "AtCapacity", "SpeechOptions"):
        assert name in reference


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "zensical.toml").read_text("utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        assert f'"{page.relative_to(ROOT / "docs")}"' in navigation


TRUSS = """
import sys
from pathlib import Path
from truss.base.truss_config import TrussConfig
config = TrussConfig.from_yaml(Path(sys.argv[1]))
assert config.docker_server.server_port == 8089
assert config.runtime.transport.kind == "websocket"
"""


def test_baseten_takes_its_configuration(installer: Any) -> None:
    """Truss' pins are not Modal's, so it has an environment for a moment."""
    environment = installer.Environment(Path(sys.prefix))
    environment.find_installer()
    uv = [environment.uv, "run", "-q", "--no-project", "--isolated", "--python", sys.executable]
    config = ROOT / "deploy/truss/config.yaml"
    run(*uv, "--with", "truss>=0.18", "python", "-c", TRUSS, config, cwd="/")


# ---- images


def stages(dockerfile: Path) -> Iterator[tuple[str, list[str]]]:
    """The name of each stage, and its instructions, continued lines joined."""
    text = re.sub(r"^#.*\n", "", dockerfile.read_text("utf-8"), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    name, found = "", list[str]()
    for line in filter(None, lines):
        if line.startswith("FROM "):
            if name:
                yield name, found
            name, found = line.rpartition(" AS ")[2], []
        else:
            found.append(line)
    yield name, found


IMAGES = [
    pytest.param("Dockerfile", ("base", "cpu"), {}, id="cpu"),
    pytest.param("Dockerfile", ("base", "gpu"), {}, id="gpu"),
    pytest.param("agent.Dockerfile", None, {"EXTRAS": "livekit"}, id="livekit"),
    pytest.param("agent.Dockerfile", None, {"EXTRAS": "examples"}, id="pipecat"),
]


@pytest.mark.parametrize(("file", "names", "arguments"), IMAGES)
def test_the_run_lines_of_an_image_make_what_it_starts(
    file: str,
    names: tuple[str, ...] | None,
    arguments: dict[str, str],
    tmp_path: Path,
    installer: Any,
) -> None:
    """In a folder in place of the image's root. For a GPU the packages are resolved only: vLLM and
    CUDA are some gigabytes."""
    app, source = tmp_path / "app", tmp_path / "src"
    source.mkdir()
    environment = installer.Environment(Path(sys.prefix))
    environment.find_installer()
    path = f"{app / 'bin'}:{os.environ['PATH']}:{Path(sys.executable).parent}"
    known = {**os.environ, **arguments, "PATH": path}
    started: list[str] = []
    probe: list[str] = []
    for name, lines in stages(DOCKER / file):
        if names is not None and name not in names:
            continue
        for line in lines:
            kind, _, rest = line.partition(" ")
            if kind == "COPY":
                *sources, _target = rest.split()
                for path in sources:
                    copy = shutil.copytree if (ROOT / path).is_dir() else shutil.copy
                    copy(ROOT / path, source / Path(path).name)
            elif kind == "RUN":
                command = re.sub(r"--mount=\S+\s+", "", rest).replace("/app", str(app))
                if command.split()[0] in NOT_HERE:
                    continue
                command = command.removeprefix("pip install --no-cache-dir uv && ")
                if name == "gpu":
                    command = command.replace("uv pip install", "uv pip install --dry-run")
                run("sh", "-ec", command, cwd=source, env=known)
            elif kind == "ENTRYPOINT":
                started = json.loads(rest)
            elif kind == "CMD":
                started += json.loads(rest)
            elif kind == "HEALTHCHECK":
                probe = json.loads(rest.partition(" CMD ")[2])
    if file == "agent.Dockerfile":
        example = {"livekit": "livekit_hello.py", "examples": "bot.py"}[arguments["EXTRAS"]]
        run(app / "bin/python", f"agent_examples/{example}", "--help", cwd=source, env=known)
    elif "cpu" in (names or ()):
        _serve(started, probe, known | {"ORPHEUS_STATE_DIR": str(tmp_path)})


def _serve(command: list[str], probe: list[str], environment: dict[str, str]) -> None:
    """The image's entry point, with its environment, is healthy by its own check."""
    settings = dict(re.findall(r"(ORPHEUS_\w+)=(\S+)", (DOCKER / "Dockerfile").read_text("utf-8")))
    known = environment | settings | {"ORPHEUS_PORT": "18089", "ORPHEUS_API_KEY": "of-the-image"}
    with subprocess.Popen(command, env=known) as server:
        try:
            for _ in range(240):
                assert server.poll() is None
                if (
                    subprocess.run(probe, env=known, capture_output=True, check=False).returncode
                    == 0
                ):
                    break
                time.sleep(0.5)
            else:
                pytest.fail("not healthy within two minutes")
        finally:
            server.terminate()
        assert server.wait(60) == 0
