"""The files in deploy/ match the server's options and endpoints, and pass their tools' own
checks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from orpheus_plugin.engine.config import EngineConfig
from orpheus_plugin.engine.local import LocalEngine
from orpheus_plugin.options import MAX_TEXT_CHARS
from orpheus_plugin.server.app import make_app
from orpheus_plugin.server.config import DEFAULT_PORT
from orpheus_plugin.server.service import SpeechService
from tests.support import scripts

kubernetes_validate: Any = pytest.importorskip("kubernetes_validate")

pytestmark = pytest.mark.deploy

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILES = sorted((DEPLOY / "docker").glob("*Dockerfile"))
COMPOSE = sorted((DEPLOY / "docker").glob("compose.*.yaml"))
MANIFESTS = [p for p in sorted((DEPLOY / "kubernetes").glob("*.yaml")) if "kustom" not in p.name]


def read(path: Path) -> dict[str, Any]:
    loaded = yaml.safe_load(path.read_text("utf-8"))
    assert isinstance(loaded, dict)
    return loaded


@pytest.fixture(scope="module")
def service() -> SpeechService:
    """A server's parts; none of them is started."""
    return SpeechService(LocalEngine(EngineConfig(model="mini")), max_text_chars=MAX_TEXT_CHARS)


@pytest.fixture(scope="module")
def routes(service: SpeechService) -> set[str]:
    app = make_app(service)
    return {route.resource.canonical for route in app.router.routes() if route.resource is not None}


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_a_dockerfile_passes_its_linter_and_copies_existing_files(path: Path) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    subprocess.run([hadolint, path], check=True)
    for line in path.read_text("utf-8").splitlines():
        if line.startswith("COPY "):
            for name in line.split()[1:-1]:
                assert (ROOT / name).exists(), name
    assert re.search(r"^USER \d+$", path.read_text("utf-8"), re.MULTILINE)


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_a_compose_file_uses_existing_files(path: Path) -> None:
    for name, service in read(path)["services"].items():
        build = service.get("build", {})
        if "dockerfile" in build:
            dockerfile = (path.parent / build["context"] / build["dockerfile"]).resolve()
            assert dockerfile in DOCKERFILES, name
        if "target" in build:
            text = (DEPLOY / "docker/Dockerfile").read_text("utf-8")
            assert f" AS {build['target']}\n" in text
        if command := [part for part in service.get("command", []) if part.endswith(".py")]:
            assert (ROOT / command[0]).is_file()
        if "ORPHEUS_URL" in service.get("environment", {}):
            assert service["environment"]["ORPHEUS_URL"] == f"http://tts:{DEFAULT_PORT}"


@pytest.mark.parametrize("more", [[], ["compose.gpu.yaml"]], ids=["cpu", "gpu"])
@pytest.mark.parametrize("name", ["compose.pipecat.yaml", "compose.livekit.yaml"])
def test_compose_takes_its_files(name: str, more: list[str]) -> None:
    compose = Path(sys.executable).with_name("docker-compose")
    files = [argument for file in (name, *more) for argument in ("-f", DEPLOY / "docker" / file)]
    done = subprocess.run(
        [compose, *files, "config"],
        env={"PATH": os.environ["PATH"], "ORPHEUS_API_KEY": "of-both"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    assert services["tts"]["build"]["target"] == ("gpu" if more else "cpu")
    for service in services.values():
        if "ORPHEUS_API_KEY" in service.get("environment", {}):
            assert service["environment"]["ORPHEUS_API_KEY"] == "of-both"
    without = subprocess.run(
        [compose, *files, "config"], env={"PATH": os.environ["PATH"]}, capture_output=True
    )
    assert without.returncode != 0
    assert b"set a key" in without.stderr


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_a_manifest_fits_the_schema_of_its_kind(path: Path) -> None:
    manifest = read(path)
    group = manifest["apiVersion"].partition("/")[0]
    if "." in group and not group.endswith(".k8s.io"):
        return  # a custom resource: Kubernetes itself has no schema of it
    kubernetes_validate.validate(manifest, "1.34", strict=True)


def test_every_manifest_is_in_the_kustomization() -> None:
    listed = read(DEPLOY / "kubernetes/kustomization.yaml")["resources"]
    assert sorted(listed) == [path.name for path in MANIFESTS]


def test_probes_and_grace_of_the_deployment_are_the_servers(routes: set[str]) -> None:
    pod = read(DEPLOY / "kubernetes/deployment.yaml")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] in routes
    assert container["ports"][0]["containerPort"] == DEFAULT_PORT
    args = container["args"]
    drain_s = float(args[args.index("--drain") + 1])
    sleep_s = float(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > drain_s + sleep_s


async def test_the_autoscaler_asks_for_metrics_that_the_server_has(service: SpeechService) -> None:
    scaled = read(DEPLOY / "kubernetes/scaledobject.yaml")
    query = scaled["spec"]["triggers"][0]["metadata"]["query"]
    exported = (service.metrics.render() or b"").decode()
    for name in re.findall(r"orpheus_\w+", query):
        assert f"\n{name} " in exported


def test_the_truss_names_routes_and_the_port_of_the_server(routes: set[str]) -> None:
    server = read(DEPLOY / "truss/config.yaml")["docker_server"]
    for name in ("predict_endpoint", "readiness_endpoint", "liveness_endpoint"):
        assert server[name] in routes
    assert f"--port {server['server_port']}" in server["start_command"]


@pytest.fixture(scope="module")
def modal_app() -> Any:
    return scripts.load(DEPLOY / "modal_app.py")


def test_the_command_of_a_modal_container_serves(modal_app: Any, unused_tcp_port: int) -> None:
    """The command itself, in the image's environment but with a model for a CPU."""
    command = modal_app.command()
    command[command.index("--port") + 1] = str(unused_tcp_port)
    environment = {
        **os.environ,
        "ORPHEUS_MODEL": "mini",
        "ORPHEUS_MAX_TURNS": "1",
        "ORPHEUS_API_KEY": "of-the-secret",
    }
    process = subprocess.Popen(command, env=environment)
    url = f"http://127.0.0.1:{unused_tcp_port}"
    try:
        modal_app.wait_until_ready(url, process, timeout_s=240)
        request = urllib.request.Request(
            f"{url}/v1/audio/speech",
            data=b'{"model": "tts-1", "input": "Hello.", "voice": "alloy", "response_format":'
            b' "pcm"}',
            headers={
                "Authorization": "Bearer of-the-secret",
                "Content-Type": "application/json",
            },
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert len(answer.read()) > 2 * 24_000 * 0.2
    finally:
        process.terminate()
        assert process.wait(60) == 0


def test_a_modal_container_that_cannot_serve_reports_it(modal_app: Any) -> None:
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(RuntimeError, match="exit code 3"):
        modal_app.wait_until_ready("http://127.0.0.1:9", process, timeout_s=30)
