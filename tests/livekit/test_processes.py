"""LiveKit's worker with its real job processes and threads, and the plugin's registration."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from livekit.agents import Plugin

from orpheus_plugin import models
from orpheus_plugin.engine.config import EngineConfig
from orpheus_plugin.engine.local import LocalEngine
from orpheus_plugin.livekit import OrpheusPlugin, OrpheusTTS
from orpheus_plugin.models.files import ModelFiles
from tests.livekit import jobs
from tests.support.servers import serving

ROOT = Path(__file__).parents[2]


async def run_jobs(kind: str, folder: Path, **environment: str) -> list[dict[str, Any]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.livekit.jobs",
        kind,
        str(folder),
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return [json.loads((folder / f"job-{n}.json").read_text("utf-8")) for n in range(jobs.JOBS)]


async def test_two_job_threads_share_one_engine_in_the_process(tmp_path: Path) -> None:
    first, second = await run_jobs("thread", tmp_path)
    assert first["pid"] == second["pid"]
    assert first["thread"] != second["thread"]
    for job in (first, second):
        assert job["model"] == "crafted"
        assert job["audio_s"] > 0


async def test_two_job_processes_speak_through_one_server_and_load_no_model(
    tmp_path: Path, crafted_files: ModelFiles
) -> None:
    engine = LocalEngine(EngineConfig(device="cpu", max_turns=4), files=crafted_files)
    async with serving(engine) as server:
        first, second = await run_jobs("process", tmp_path, ORPHEUS_URL=server.url)
    assert first["pid"] != second["pid"]
    for job in (first, second):
        assert job["model"] == "crafted"
        assert job["audio_s"] > 0
        assert not job["torch"]


def test_every_test_that_the_guide_names_is_there() -> None:
    guide = (ROOT / "docs/livekit.md").read_text("utf-8")
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", guide)
    assert len(named) > 10
    for file, name in named:
        assert f"def {name}(" in (Path(__file__).parent / file).read_text("utf-8"), name


# ---- the plugin


def test_it_may_be_prewarmed_without_an_event_loop() -> None:
    """In a worker's setup function, for one."""
    code = (
        "from orpheus_plugin.livekit import TTS\n"
        "speech = TTS(url='http://127.0.0.1:1')\n"
        "speech.prewarm()\n"
        "print('begun')"
    )
    assert run_python(code) == "begun"


def run_python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    ).stdout.strip()


def test_importing_and_constructing_it_loads_no_model_code_and_starts_no_thread() -> None:
    code = (
        "import sys, threading\n"
        "from orpheus_plugin.livekit import TTS\n"
        "speech = TTS()\n"
        "heavy = {'torch', 'snac', 'vllm', 'transformers', 'tokenizers'} & set(sys.modules)\n"
        "print(speech.model, sorted(heavy), [t.name for t in threading.enumerate() if 'orpheus' in"
        " t.name])"
    )
    assert run_python(code) == "orpheus [] []"


def test_it_is_registered_once_under_a_package_the_fork_server_can_preload() -> None:
    (plugin,) = [p for p in Plugin.registered_plugins if isinstance(p, OrpheusPlugin)]
    assert plugin.package == "orpheus_plugin.livekit"
    assert plugin.logger is not None
    assert plugin.logger.name == "livekit.plugins.orpheus"


def test_a_thread_may_be_the_first_to_import_it() -> None:
    code = (
        "import threading\n"
        "def work():\n"
        "    import orpheus_plugin.livekit\n"
        "    print('imported')\n"
        "thread = threading.Thread(target=work); thread.start(); thread.join()"
    )
    assert run_python(code) == "imported"


def test_livekits_name_for_it_is_the_same_plugin() -> None:
    orpheus = pytest.importorskip(
        "livekit.plugins.orpheus", reason="the namespace module is not installed"
    )
    assert orpheus.TTS is orpheus.OrpheusTTS is OrpheusTTS


def test_download_files_fetches_the_model_of_this_machines_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fetched: list[str] = []
    monkeypatch.setattr(models, "choose", lambda: "orpheus-3b")
    monkeypatch.setattr(models, "download", fetched.append)
    monkeypatch.delenv("ORPHEUS_URL", raising=False)
    OrpheusPlugin().download_files()
    monkeypatch.setenv("ORPHEUS_URL", "http://elsewhere:8089")
    OrpheusPlugin().download_files()
    assert fetched == ["orpheus-3b"]


def test_the_job_program_knows_its_own_memory() -> None:
    assert jobs.resident_mb(os.getpid()) >= jobs.private_mb(os.getpid()) > 10
    assert threading.current_thread() is threading.main_thread()
