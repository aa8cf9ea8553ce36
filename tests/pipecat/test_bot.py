"""The example agent as a command, with the bundled voice."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import signal
import socket
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCSessionDescription
from pipecat.frames.frames import LLMMessagesAppendFrame
from pipecat.processors.aggregators.llm_context import LLMContextMessage
from pipecat.runner.types import RunnerArguments

from orpheus_plugin.models.files import known_models
from orpheus_plugin.pipecat import OrpheusTTS
from orpheus_plugin.pipecat.wav import WavTransport
from tests.pipecat.conversations import end_servers
from tests.pipecat.hearing import UNDERSTOOD, last_audible_s, levels, read_wav, understood
from tests.pipecat.listening import answers
from tests.pipecat.tones import ToneEngine

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


def test_a_wrong_option_is_reported_before_the_model_is_loaded() -> None:
    done = run("bot.py", "--voise", "tara")
    assert done.returncode == 2
    assert "--voise" in done.stderr.splitlines()[-1]
    assert "loading" not in done.stderr


def test_a_port_in_use_is_reported_in_one_line_before_the_model_is_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("bot.py", "--host", "127.0.0.1", "--port", str(port))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: port {port} is taken")
    assert "loading" not in done.stderr


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    done = run("bot.py", "--say", "Hi.", "--out", str(tmp_path / "nowhere" / "x.wav"))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr


@pytest.fixture
def engine() -> ToneEngine:
    return ToneEngine()


@pytest.fixture
def bot(engine: ToneEngine, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module bot.py, which speaks with `engine`."""
    monkeypatch.syspath_prepend(str(ROOT / "agent_examples"))
    module: Any = importlib.import_module("bot")
    monkeypatch.setattr(module, "make_tts", lambda args: OrpheusTTS(engine=engine))
    return module


async def test_a_language_model_that_does_not_answer_is_announced(
    bot: Any, engine: ToneEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_recogniser() -> None:
        return None

    monkeypatch.setattr(bot, "make_stt", no_recogniser)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    transport = WavTransport(tmp_path / "call.wav")

    @transport.event_handler("on_client_connected")
    async def talk(transport: WavTransport, client: object) -> None:
        said: list[LLMContextMessage] = [{"role": "user", "content": "Hello?"}]
        await transport.input().push_frame(LLMMessagesAppendFrame(messages=said, run_llm=True))

    calling = asyncio.create_task(
        bot.run_bot(transport, bot.options().parse_args([]), RunnerArguments())
    )
    async with asyncio.timeout(60):
        while not any("language model does not answer" in text for text in engine.spoken):
            await asyncio.sleep(0.05)
    [call] = bot.calls
    await call.cancel()
    await calling


@contextlib.asynccontextmanager
async def called(script: str, *options: str, **environment: str) -> AsyncIterator[Process]:
    """An example agent, to whose greeting somebody listens in WebRTC."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    agent = await asyncio.create_subprocess_exec(
        *(sys.executable, str(ROOT / "agent_examples" / script), *options, "--port", str(port)),
        env={**os.environ, **environment},
        stderr=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
    )
    caller = RTCPeerConnection()
    caller.addTransceiver("audio", direction="recvonly")
    heard = asyncio.Event()

    @caller.on("track")
    async def listen(track: MediaStreamTrack) -> None:
        while not heard.is_set():
            if np.abs((await track.recv()).to_ndarray()).max() > 1_000:  # type: ignore[union-attr]
                heard.set()

    try:
        url = f"http://localhost:{port}/"
        await answers(url, agent)
        await caller.setLocalDescription(await caller.createOffer())
        offer = {"sdp": caller.localDescription.sdp, "type": caller.localDescription.type}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{url}api/offer", json=offer) as answer,
        ):
            told = await answer.json()
        await caller.setRemoteDescription(RTCSessionDescription(told["sdp"], told["type"]))
        await asyncio.wait_for(heard.wait(), 120)
        yield agent
    finally:
        await caller.close()
        if agent.returncode is None:
            agent.kill()
            await agent.wait()


async def test_ctrl_c_ends_the_agent_during_a_call() -> None:
    async with called("bot.py", "--in-process") as agent:
        agent.send_signal(signal.SIGINT)
        await asyncio.wait_for(agent.wait(), 60)


async def test_a_pipeline_that_plays_to_its_end_ends_when_its_task_is_cancelled(
    bot: Any, engine: ToneEngine, tmp_path: Path
) -> None:
    """Its EndFrame is in the pipeline already, after a minute of speech."""
    args = bot.options().parse_args(["--say", "And so on it goes, and on. " * 40])
    saying = asyncio.create_task(
        bot.run_bot(WavTransport(tmp_path / "said.wav", realtime=True), args, RunnerArguments())
    )
    async with asyncio.timeout(30):
        while not engine.spoken:
            await asyncio.sleep(0.01)
        saying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await saying
    assert not bot.calls
    assert engine.live == 0


async def test_ctrl_c_ends_a_bot_while_it_speaks(tmp_path: Path) -> None:
    path = tmp_path / "said.wav"
    agent = await asyncio.create_subprocess_exec(
        *(sys.executable, str(ROOT / "agent_examples" / "bot.py")),
        *("--say", "The quick brown fox jumps over the lazy dog. " * 60, "--out", str(path)),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(120):
            while not path.exists() or not path.stat().st_size:
                await asyncio.sleep(0.05)
            agent.send_signal(signal.SIGINT)
            _, told = await agent.communicate()
    finally:
        if agent.returncode is None:
            agent.kill()
            await agent.wait()
    assert agent.returncode == 130
    assert b"Traceback" not in told


async def test_the_smallest_agent_greets_its_caller(tmp_path: Path) -> None:
    try:
        async with called("pipecat_hello.py", ORPHEUS_STATE_DIR=str(tmp_path), ORPHEUS_URL=""):
            pass
    finally:
        end_servers(tmp_path)


def test_settings_change_while_it_speaks(tmp_path: Path) -> None:
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
