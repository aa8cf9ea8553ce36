"""Voices that are LoRA adapters, in an engine and on a server: they speak beside the model's own,
and say what they are."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from orpheus_plugin.cli.main import main
from orpheus_plugin.engine.config import EngineConfig
from orpheus_plugin.engine.local import LocalEngine
from orpheus_plugin.errors import BadCheckpoint, InvalidOptions, ModelNotFound, UnknownVoice
from orpheus_plugin.events import AudioChunk, TurnEnd
from orpheus_plugin.models.files import ModelFiles
from orpheus_plugin.options import SpeechOptions
from orpheus_plugin.remote.engine import RemoteEngine
from orpheus_plugin.speech_engine import SpeechEngine
from orpheus_plugin.tokens.vocabulary import Vocabulary
from tests.support.adapters import random_adapter
from tests.support.checkpoints import SMALL_TEXT, crafted_checkpoint
from tests.support.servers import serving

TEXT = "The quick brown fox jumps over the lazy dog."


@pytest.fixture(scope="module")
def alice(crafted_files: ModelFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_adapter(crafted_files.lm, tmp_path_factory.mktemp("alice"), size=0.1)


@pytest.fixture
async def local(crafted_files: ModelFiles, alice: Path) -> AsyncIterator[LocalEngine]:
    adapters = {"alice": str(alice), "bob": f"{alice}#robert", "eve": f"{alice}#"}
    engine = LocalEngine(
        EngineConfig(device="cpu", max_turns=8, adapters=adapters), files=crafted_files
    )
    await engine.start()
    yield engine
    await engine.aclose()


async def speak(engine: SpeechEngine, voice: str | None) -> tuple[bytes, TurnEnd]:
    async with engine.open_turn(SpeechOptions(voice=voice, seed=5)) as turn:
        turn.push_text(TEXT)
        turn.end()
        events = [event async for event in turn]
    end = events[-1]
    assert isinstance(end, TurnEnd)
    return b"".join(event.pcm for event in events if isinstance(event, AudioChunk)), end


async def test_adapters_are_voices_beside_the_models_own(
    local: LocalEngine, crafted_files: ModelFiles
) -> None:
    assert local.voices == ("tara", "leo", "alice", "bob", "eve")
    assert local.adapters == ("alice", "bob", "eve")
    assert local.check_voice("ALICE") == "alice"
    assert local.check_voice(None) == "tara"
    with pytest.raises(UnknownVoice, match="tara, leo, alice"):
        local.check_voice("carol")
    voices = ["tara", "alice", "bob", "eve"]
    spoken = await asyncio.gather(*(speak(local, voice) for voice in voices))
    assert len({pcm for pcm, _ in spoken}) == 4
    assert all(len(pcm) > 9_600 for pcm, _ in spoken)
    vocabulary = Vocabulary.load(crafted_files.lm)
    for (_, end), named in zip(spoken, ("tara", "alice", "robert", ""), strict=True):
        once = len(vocabulary.prompt(named, TEXT))
        assert end.stats.prompt_tokens == once * (1 + end.stats.retries)


async def test_a_server_says_which_voices_are_adapters(local: LocalEngine) -> None:
    async with serving(local) as server, aiohttp.ClientSession() as session:
        async with session.get(f"{server.url}/v1/audio/voices") as response:
            listed = (await response.json())["voices"]
        assert {one["id"]: one["kind"] for one in listed} == {
            "tara": "base",
            "leo": "base",
            "alice": "adapter",
            "bob": "adapter",
            "eve": "adapter",
        }
        async with session.get(f"{server.url}/healthz") as response:
            assert (await response.json())["adapters"] == ["alice", "bob", "eve"]
        remote = RemoteEngine(server.url)
        await remote.start()
        assert remote.adapters == local.adapters
        assert remote.voices == local.voices
        assert (await speak(remote, "Alice"))[0]
        await remote.aclose()


async def test_a_model_that_names_no_voices_takes_any_name_and_its_adapters(
    crafted_files: ModelFiles, alice: Path
) -> None:
    nameless = replace(crafted_files, spec=replace(crafted_files.spec, voices=()))
    config = EngineConfig(device="cpu", adapters={"Alice": str(alice)})
    engine = LocalEngine(config, files=nameless)
    assert (engine.voices, engine.adapters) == ((), ("Alice",))
    assert engine.check_voice("alice") == "Alice"
    assert engine.check_voice("anyone") == "anyone"
    assert engine.check_voice(None) == ""


def test_equal_adapters_make_equal_configurations(alice: Path) -> None:
    one, other = (EngineConfig(adapters={"a": source}) for source in (alice, str(alice)))
    assert one == other
    assert hash(one) == hash(other)
    assert one != EngineConfig()
    for wrong in ("alice", 3, [1]):
        with pytest.raises(InvalidOptions, match="adapters must be a table"):
            EngineConfig(adapters=wrong)  # type: ignore[arg-type]


async def test_a_bad_adapter_is_an_error_before_or_at_start_and_harms_no_other_engine(
    local: LocalEngine, crafted_files: ModelFiles, alice: Path, tmp_path: Path
) -> None:
    def engine(source: Path) -> LocalEngine:
        config = EngineConfig(device="cpu", adapters={"mine": str(source), "alice": str(alice)})
        return LocalEngine(config, files=crafted_files)

    with pytest.raises(ModelNotFound, match="'mine': no directory"):
        engine(tmp_path / "nowhere")
    pickled = shutil.copytree(alice, tmp_path / "pickled")
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    with pytest.raises(BadCheckpoint, match=r"'mine'.*pickle"):
        engine(pickled)
    other = random_adapter(crafted_checkpoint(hidden=128, text=SMALL_TEXT), tmp_path / "other")
    wrong = engine(other)
    with pytest.raises(BadCheckpoint, match=r"'mine'.*another model"):
        await wrong.start()
    await wrong.aclose()
    assert (await speak(local, "alice"))[0]


def test_say_speaks_with_an_adapter(
    crafted_files: ModelFiles, alice: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--model", str(crafted_files.lm), "--codec", str(crafted_files.codec)]
    out = tmp_path / "alice.wav"
    said = [
        "say",
        TEXT,
        "--voice",
        "alice",
        "-o",
        str(out),
        "--device",
        "cpu",
        "--seed",
        "0",
        *model,
    ]
    assert main([*said, "--adapter", f"alice={alice}"]) == 0
    assert out.stat().st_size > 9_600
    capsys.readouterr()
    assert main(["voices", "--adapter", f"alice={alice}#ally"]) == 0
    listed = capsys.readouterr().out
    assert "alice  (adapter of someone/a-base, rank 4)\n  prompt: ally: text\n" in listed
    for given, why in (
        (["--adapter", str(alice)], "NAME=DIR"),
        (["--adapter", f"alice={tmp_path}"], "no adapter_config.json"),
        (["--adapter", f"alice={alice}", "--adapter", f"alice={alice}"], "given twice"),
    ):
        capsys.readouterr()
        assert main([*said, *given]) in (1, 2)
        assert why in capsys.readouterr().err
