"""The example agent as a command, with the bundled voice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orpheus_plugin.models import known_models
from tests.pipecat.hearing import UNDERSTOOD, last_audible_s, levels, read_wav, understood

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif("mini" not in known_models(), reason="no bundled voice")


def run(script: str, *args: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OPENAI_", "ORPHEUS_"))}
    return subprocess.run(
        [sys.executable, str(ROOT / "agent_examples" / script), *args],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**environment, "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
    )


def test_the_bot_says_a_text_into_a_file(tmp_path: Path) -> None:
    path = tmp_path / "said.wav"
    said = "Hello there. The weather is nice today."
    done = run("bot.py", "--say", said, "--out", str(path))
    assert done.returncode == 0, done.stderr
    assert str(path) in done.stdout
    samples, rate = read_wav(path)
    assert rate == 24_000
    assert understood(said, samples, rate) >= UNDERSTOOD


def test_an_unknown_voice_is_one_line_and_a_failure(tmp_path: Path) -> None:
    done = run("bot.py", "--say", "Hi.", "--voice", "nobody", "--out", str(tmp_path / "x.wav"))
    assert done.returncode == 1
    assert "nobody" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_settings_are_changed_in_mid_speech(tmp_path: Path) -> None:
    path = tmp_path / "tour.wav"
    done = run("update_settings.py", "--out", str(path))
    assert done.returncode == 0, done.stderr
    samples, rate = read_wav(path)
    assert (levels(samples, rate) > 0.01).mean() * len(samples) / rate > 5


def test_speaking_into_a_transport_given_by_name(tmp_path: Path) -> None:
    path = tmp_path / "dinner.wav"
    done = run("speak.py", "Dinner is ready.", "wav", f"path={path}")
    assert done.returncode == 0, done.stderr
    samples, rate = read_wav(path)
    assert last_audible_s(samples, rate) > 0.5
    unknown = run("speak.py", "Dinner is ready.", "smoke")
    assert unknown.returncode == 1
    assert "smoke" in unknown.stderr.splitlines()[-1]
