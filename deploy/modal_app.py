"""Orpheus text-to-speech on Modal, one L40S: the whole server behind one URL.

    pip install modal && modal setup
    modal run deploy/modal_app.py::download          # once: weights into a Volume
    modal run deploy/modal_app.py                    # speak one sentence: first sound and RTFx
    modal deploy deploy/modal_app.py                 # prints the URL

The URL takes every protocol of the server: `OrpheusTTS(url="https://...")` in Pipecat and LiveKit,
unmute (`KYUTAI_TTS_URL=wss://HOST:443`), OpenAI's clients (`base_url="https://.../v1"`).

Parameters are environment variables of the machine that runs `modal`:

    ORPHEUS_MODEL              orpheus-3b
    ORPHEUS_GPU                L40S
    ORPHEUS_MAX_TURNS          turns that one container takes at once (32)
    ORPHEUS_MIN_CONTAINERS     containers that are always warm (0)
    ORPHEUS_SCALEDOWN_S        seconds a container stays after its last turn (300)

Secrets: `orpheus-tts` with ORPHEUS_API_KEY, which clients send, and HF_TOKEN for repositories that
ask for one: `modal secret create orpheus-tts ORPHEUS_API_KEY=... HF_TOKEN=...`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import modal

MODEL = os.environ.get("ORPHEUS_MODEL", "orpheus-3b")
GPU = os.environ.get("ORPHEUS_GPU", "L40S")
MAX_TURNS = int(os.environ.get("ORPHEUS_MAX_TURNS", "32"))
MIN_CONTAINERS = int(os.environ.get("ORPHEUS_MIN_CONTAINERS", "0"))
SCALEDOWN_S = int(os.environ.get("ORPHEUS_SCALEDOWN_S", "300"))

PORT = 8089
CACHE = "/cache"
STARTUP_S = 1200
"""The first start of a container compiles vLLM's kernels, which takes minutes. The Volume keeps
them."""

ROOT = Path(__file__).resolve().parents[1]

image = (
    modal.Image.from_registry("nvidia/cuda:12.8.1-devel-ubuntu22.04", add_python="3.12")
    .entrypoint([])
    .env(
        {
            "HF_HOME": f"{CACHE}/huggingface",
            "VLLM_CACHE_ROOT": f"{CACHE}/vllm",
            "ORPHEUS_MODEL": MODEL,
            "ORPHEUS_MAX_TURNS": str(MAX_TURNS),
        }
    )
    .add_local_dir(
        ROOT,
        "/src",
        copy=True,
        ignore=[".git", ".venv*", ".cache", "tests", "benchmarks", "training", "**/__pycache__"],
    )
    .uv_pip_install("/src[server,vllm]")
)
volume = modal.Volume.from_name("orpheus-tts-cache", create_if_missing=True)
secret = modal.Secret.from_name("orpheus-tts")
app = modal.App("orpheus-tts", image=image)


def command() -> list[str]:
    """The command of a container. Model, port, turns and key are in its environment."""
    return [
        sys.executable,
        "-m",
        "orpheus_plugin",
        "serve",
        "--host",
        "0.0.0.0",
        "--port",
        str(PORT),
    ]


def wait_until_ready(
    url: str, process: subprocess.Popen[bytes], timeout_s: float = STARTUP_S
) -> None:
    """Returns when the server has loaded and warmed its model. Raises RuntimeError when it ended
    instead."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with exit code {process.returncode}; see its log")
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5):
                return
        except OSError:  # not listening yet, or 503 while the model is loaded
            time.sleep(0.5)
    raise RuntimeError(f"the server was not ready within {timeout_s:.0f} s")


@app.function(volumes={CACHE: volume}, secrets=[secret], timeout=3600)
def download() -> None:
    """Download the model and its codec into the Volume."""
    subprocess.run(["orpheus-tts", "download", MODEL], check=True)
    volume.commit()


@app.cls(
    gpu=GPU,
    volumes={CACHE: volume},
    secrets=[secret],
    timeout=24 * 3600,
    scaledown_window=SCALEDOWN_S,
    min_containers=MIN_CONTAINERS,
)
@modal.concurrent(max_inputs=4 * MAX_TURNS, target_inputs=MAX_TURNS)
class Speech:
    """One container: a whole server. It takes requests once it is ready.

    An input is a request or a websocket, of which a client may hold one for many turns; so
    containers are added at `target_inputs`, and what one server cannot speak it refuses or lets
    wait by itself.
    """

    @modal.web_server(PORT, startup_timeout=STARTUP_S)
    def serve(self) -> None:
        process = subprocess.Popen(command())
        wait_until_ready(f"http://127.0.0.1:{PORT}", process)


@app.function(gpu=GPU, volumes={CACHE: volume}, secrets=[secret], timeout=3600)
def speak(text: str) -> str:
    """One sentence, without a server: what `orpheus-tts say` prints (first sound, RTFx)."""
    said = subprocess.run(
        ["orpheus-tts", "say", text, "--model", MODEL, "-o", "/tmp/said.wav"],
        check=True,
        capture_output=True,
        text=True,
    )
    return said.stderr.strip()


@app.local_entrypoint()
def main(text: str = "Hello! I am speaking from a graphics card in the cloud.") -> None:
    print(speak.remote(text))
