"""The bundled voice through LiveKit, judged by a recogniser: what a caller hears, from a session, a
job, the example."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import wave
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest
from livekit.agents.tokenize.basic import hyphenate_word
from livekit.agents.voice.transcription.synchronizer import STANDARD_SPEECH_RATE

from orpheus_plugin.engine.config import EngineConfig
from orpheus_plugin.engine.local import LocalEngine
from orpheus_plugin.events import SAMPLE_RATE, AudioChunk, TurnEvent
from orpheus_plugin.livekit import OrpheusTTS
from orpheus_plugin.options import SpeechOptions
from orpheus_plugin.remote.registry import records
from tests.livekit.fakes import RoteLLM, on_stage, pcm, pieces, read
from tests.livekit.jobs import SENTENCES
from tests.livekit.test_processes import ROOT, run_jobs
from tests.support.recogniser import heard, needs_recogniser, word_error_rate, word_times, words
from tests.support.recorded import RecordedEngine
from tests.support.servers import RunningTestServer, serving
from tests.support.virtual_time import run_in_virtual_time

REPLY = (
    "The weather is fine today, and the children are playing in the garden. "
    "We will have dinner together at seven."
)
MOST_WRONG = 0.2
"""LiveKit's own limit. A benchmark measures the voice on two hundred sentences."""


@pytest.fixture(scope="module", autouse=True)
def recogniser() -> None:
    needs_recogniser()


class Lasting(LocalEngine):
    """Outlives the servers of the tests, each of which closes its engine."""

    async def aclose(self) -> None:
        pass

    async def end(self) -> None:
        await super().aclose()


@pytest.fixture(scope="module")
def engine() -> Iterator[Lasting]:
    engine = Lasting(EngineConfig(model="mini", device="cpu", max_turns=2))
    asyncio.run(engine.start())
    yield engine
    asyncio.run(engine.end())


@pytest.fixture
async def server(engine: Lasting) -> AsyncIterator[RunningTestServer]:
    async with serving(engine) as server:
        yield server


async def test_a_session_says_what_the_language_model_wrote(
    server: RunningTestServer,
) -> None:
    async with (
        OrpheusTTS(url=server.url, seed=1) as speech,
        on_stage(speech, llm=RoteLLM(REPLY), use_tts_aligned_transcript=True) as stage,
    ):
        await stage.session.generate_reply(user_input="go on")
        found = heard(stage.audio.pcm)
        assert word_error_rate(REPLY, found) <= MOST_WRONG, found
        assert stage.captions.text.strip() == REPLY
        assert (stage.last_message.text_content or "").strip() == REPLY


@pytest.fixture(scope="module")
def said(engine: Lasting) -> list[TurnEvent]:
    """REPLY by the bundled voice, once."""

    async def speak() -> list[TurnEvent]:
        turn = engine.open_turn(SpeechOptions(seed=2))
        turn.push_text(REPLY)
        turn.end()
        return [event async for event in turn]

    return asyncio.run(speak())


@pytest.fixture(scope="module")
def ends(said: list[TurnEvent]) -> list[float]:
    """When each word of REPLY ends, found by the recogniser in the audio."""
    sound = np.frombuffer(sound_of(said), "<i2")
    return [end for _, end in word_times(REPLY, sound, SAMPLE_RATE)]


def sound_of(said: list[TurnEvent]) -> bytes:
    return b"".join(event.pcm for event in said if isinstance(event, AudioChunk))


def over(ends: list[float], at_s: float) -> int:
    return sum(end <= at_s for end in ends)


def test_an_interrupted_session_remembers_the_words_that_were_heard(
    said: list[TurnEvent], ends: list[float]
) -> None:
    """Heard in a time of its own, and cut at many places.

    LiveKit takes words in by a clock that counts whole syllables, at its own rate until it has all
    of a reply: having shown a word a syllable early, it may wait for the next one as long as that
    word and a syllable take.
    """

    async def interrupt(cut_s: float) -> tuple[list[str], float]:
        async with (
            OrpheusTTS(engine=RecordedEngine(said, speed=1.3)) as speech,
            on_stage(speech, llm=RoteLLM(REPLY), use_tts_aligned_transcript=True) as stage,
        ):
            handle = stage.session.generate_reply(user_input="go on")
            await stage.speaking()
            await stage.audio.plays(cut_s)
            await stage.session.interrupt()
            await handle
            kept = (stage.last_message.text_content or "").split()
            return kept, stage.audio.played_s

    text = REPLY.split()
    off: list[int] = []
    for cut_s in np.arange(0.6, len(sound_of(said)) / 48_000 - 0.1, 0.3):
        kept, played_s = run_in_virtual_time(interrupt(float(cut_s)), wall_clock=True)
        assert kept == text[: len(kept)]
        coming = "".join(text[len(kept) : len(kept) + 1])
        waits_s = (len(hyphenate_word(coming)) + 1) / STANDARD_SPEECH_RATE
        assert over(ends, played_s - waits_s) - 2 <= len(kept) <= over(ends, played_s) + 2
        off.append(len(kept) - over(ends, played_s))
    assert sum(abs(words) > 1 for words in off) <= len(off) // 5, off


async def test_the_history_equals_the_captions_after_an_interruption_through_a_server(
    server: RunningTestServer,
) -> None:
    async with (
        OrpheusTTS(url=server.url, seed=1) as speech,
        on_stage(speech, llm=RoteLLM(REPLY), use_tts_aligned_transcript=True) as stage,
    ):
        handle = stage.session.generate_reply(user_input="go on")
        await stage.speaking()
        await stage.audio.plays(1.5)
        await stage.session.interrupt()
        await handle
        kept = (stage.last_message.text_content or "").split()
        assert kept == REPLY.split()[: len(kept)]
        assert stage.captions.text.split() in (kept, REPLY.split()[: len(kept) + 1])
        starts = [(word, word.start_time) for word in stage.audio.words]
        begun = [w for w, at in starts if isinstance(at, float) and at <= stage.audio.played_s]
        # LiveKit's clock may be ahead of the sound by a part of a word.
        assert 1 <= len(kept) <= len("".join(begun).split()) + 1


@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "synthesize"])
async def test_livekits_own_requirements_of_a_tts_are_met(
    server: RunningTestServer, streamed: bool
) -> None:
    """Its published test: raw PCM, the declared rate, and at most so many words wrong."""
    async with OrpheusTTS(url=server.url, seed=1) as speech:
        if streamed:
            stream = speech.stream()
            async for piece in pieces(REPLY):
                stream.push_text(piece)
            stream.end_input()
            sound = pcm(await read(stream))
        else:
            sound = pcm(await read(speech.synthesize(REPLY)))
        assert sound[:4] not in (b"RIFF", b"OggS", b"fLaC")
        found = heard(sound)
        assert word_error_rate(REPLY, found) <= MOST_WRONG, found


async def test_each_of_two_job_processes_says_its_sentence(
    server: RunningTestServer, tmp_path: Path
) -> None:
    reports = await run_jobs("process", tmp_path, ORPHEUS_URL=server.url)
    for number, (sentence, report) in enumerate(zip(SENTENCES, reports, strict=True)):
        found = heard((tmp_path / f"job-{number}.pcm").read_bytes())
        assert word_error_rate(sentence, found) <= 0.5, found
        assert report["model"] == "mini"
        assert not report["torch"]
        assert report["private_mb"] < 200


async def test_without_an_address_one_server_is_started_and_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORPHEUS_STATE_DIR", str(tmp_path))
    monkeypatch.delenv("ORPHEUS_URL", raising=False)
    monkeypatch.delenv("ORPHEUS_API_KEY", raising=False)
    try:
        for _ in range(2):  # the second has a connection of its own, as another process would
            async with OrpheusTTS(model="mini", seed=1) as speech:
                await asyncio.wait_for(speech.connect(), 200)
                found = heard(pcm(await read(speech.synthesize(SENTENCES[0]))))
                assert word_error_rate(SENTENCES[0], found) <= 0.5, found
        assert len(records()) == 1
    finally:
        for server in records():
            os.kill(server.pid, signal.SIGTERM)


def test_the_example_speaks_with_no_key_and_no_server(tmp_path: Path) -> None:
    sound = tmp_path / "hello.wav"
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "agent_examples/livekit_agent.py"),
            "console",
            "--out",
            str(sound),
        ],
        input="Are you there?\n",
        capture_output=True,
        text=True,
        timeout=240,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "What would you like to talk about?" in done.stdout
    assert "You said: Are you there?." in done.stdout
    with wave.open(str(sound)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (24_000, 1, 2)
        found = words(heard(file.readframes(file.getnframes())))
    assert {"what", "would", "you", "like", "talk", "about"} & set(found)


def test_ctrl_c_ends_the_example_while_it_waits_for_a_line(tmp_path: Path) -> None:
    with subprocess.Popen(
        [
            sys.executable,
            str(ROOT / "agent_examples/livekit_agent.py"),
            "console",
            "--out",
            "x.wav",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    ) as agent:
        assert agent.stdout is not None
        assert "What would you like to talk about?" in agent.stdout.readline()
        agent.send_signal(signal.SIGINT)
        try:
            assert agent.wait(60) == 130
        finally:
            agent.kill()
        assert agent.stderr is not None
        assert "Traceback" not in agent.stderr.read()


def test_the_example_is_a_livekit_program() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "agent_examples/livekit_agent.py"), "--help"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0
    for command in ("console", "dev", "start"):
        assert command in done.stdout


@pytest.mark.parametrize("command", ["dev", "start"])
def test_the_example_names_the_missing_livekit_settings(command: str) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LIVEKIT_")}
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "agent_examples/livekit_agent.py"),
            command,
            "--api-key=devkey",
        ],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    assert done.returncode == 2
    assert "needs LIVEKIT_URL, LIVEKIT_API_SECRET (" in done.stderr
    assert "Traceback" not in done.stderr
