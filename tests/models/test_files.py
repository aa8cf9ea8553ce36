"""Names, voices, and finding and downloading files: against directories laid out like the hub's
cache."""

from __future__ import annotations

import errno
import fnmatch
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orpheus_plugin.errors import BadCheckpoint, InvalidOptions, ModelNotFound
from orpheus_plugin.models import devices
from orpheus_plugin.models import files as models
from orpheus_plugin.models.devices import pick_device
from orpheus_plugin.models.files import (
    SNAC_24KHZ,
    choose,
    download,
    find,
    known_models,
    locate,
)

OFFICIAL, MIRROR, _ = known_models()["orpheus-3b"].repo_ids


def fill_lm(folder: Path, config: dict[str, Any] | None = None, shards: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config or {}), "utf-8")
    (folder / "tokenizer.json").write_text("{}")
    if shards:
        names = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
        index = {"weight_map": {f"w{i}": name for i, name in enumerate(names)}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    else:
        names = ["model.safetensors"]
    for name in names:
        (folder / name).write_bytes(b"x")
    return folder


def fill_codec(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"x")
    return folder


def snapshot_dir(cache: Path, repo: str, commit: str = "a" * 40, ref: str = "main") -> Path:
    root = cache / f"models--{repo.replace('/', '--')}"
    (root / "refs").mkdir(parents=True, exist_ok=True)
    (root / "refs" / ref).write_text(commit)
    folder = root / "snapshots" / commit
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "hub"
    folder.mkdir()
    return folder


class Refusal(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(f"{status} Client Error\nlots of\nlines")
        self.response = SimpleNamespace(status_code=status)


def hub(cache: Path, answers: dict[str, Exception | Callable[[Path], object]]) -> Any:
    """A stand-in for snapshot_download: what each repository answers. Keeps its calls in
    `.calls`."""
    calls: list[dict[str, Any]] = []

    def snapshot(**keywords: Any) -> str:
        calls.append(keywords)
        answer = answers[keywords["repo_id"]]
        if isinstance(answer, Exception):
            raise answer
        folder = snapshot_dir(cache, keywords["repo_id"])
        answer(folder)
        return str(folder)

    snapshot.calls = calls  # type: ignore[attr-defined]
    return snapshot


def test_the_known_models_name_their_voices_languages_and_licences() -> None:
    known = known_models()
    assert {
        "orpheus-3b",
        *(f"orpheus-3b-{c}" for c in ("fr", "de", "ko", "hi", "zh", "es", "it")),
    } <= set(known)
    assert known["orpheus-3b"].voices[0] == "tara"
    assert len(known["orpheus-3b"].voices) == 8
    assert "작은 웃음" in known["orpheus-3b-ko"].tags
    assert known["orpheus-3b-es"].repo_ids == known["orpheus-3b-it"].repo_ids
    for name, spec in known.items():
        assert spec.name == name
        assert spec.voices
        assert spec.license
        if name != "mini":
            assert "Llama" in spec.license
            assert spec.sampling.repetition_penalty >= 1.1


def test_auto_chooses_the_large_model_only_on_cuda_and_logs_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        assert choose("auto", device="cuda:0") == "orpheus-3b"
        assert choose("auto", device="cpu") == "mini"
    assert [r.getMessage().count("Model: ") for r in caplog.records] == [1, 1]
    assert choose("anything", device="cuda") == "anything"


@pytest.mark.parametrize("cuda", [True, False])
def test_auto_on_any_device_asks_for_cuda(monkeypatch: pytest.MonkeyPatch, cuda: bool) -> None:
    monkeypatch.setattr(models, "cuda_available", lambda: cuda)
    assert choose() == ("orpheus-3b" if cuda else "mini")


def test_auto_without_orpheus_uses_the_bundled_voice_and_names_the_download_command(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = find(device="cuda", cache_dir=cache)
    assert files.spec.name == "mini"
    (told,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "orpheus-tts download orpheus-3b" in told
    assert "make bot MODEL=orpheus-3b" in told
    for name, codec in (
        ("orpheus-3b", None),
        ("auto", cache),
    ):  # what was asked for is not replaced
        with pytest.raises(ModelNotFound):
            find(name, device="cuda", codec=codec, cache_dir=cache)
    fill_lm(snapshot_dir(cache, MIRROR))
    fill_codec(snapshot_dir(cache, SNAC_24KHZ))
    caplog.clear()
    assert find(device="cuda", cache_dir=cache).spec.name == "orpheus-3b"
    assert find(device="cpu", cache_dir=cache).spec.name == "mini"
    assert not [r for r in caplog.records if r.levelno == logging.WARNING]


def test_a_cached_mirror_is_found_by_the_models_name(cache: Path) -> None:
    lm = fill_lm(snapshot_dir(cache, MIRROR), shards=2)
    codec = fill_codec(snapshot_dir(cache, SNAC_24KHZ))
    for name in ("orpheus-3b", "english", MIRROR):
        files = locate(name, cache_dir=cache)
        assert (files.spec.name, files.lm, files.codec) == ("orpheus-3b", lm, codec)


@pytest.mark.parametrize("name", ["orpheus-3b", "french", "someone/fine-tune"])
def test_a_missing_model_names_the_command_that_fetches_it(cache: Path, name: str) -> None:
    with pytest.raises(ModelNotFound, match=f"orpheus-tts download {name}$"):
        locate(name, cache_dir=cache)


def test_a_missing_codec_names_the_command_that_fetches_it(cache: Path, tmp_path: Path) -> None:
    fill_lm(snapshot_dir(cache, OFFICIAL))
    with pytest.raises(ModelNotFound, match=r"codec .* orpheus-tts download orpheus-3b"):
        locate("orpheus-3b", cache_dir=cache)
    with pytest.raises(ModelNotFound, match="orpheus-tts download orpheus-3b"):
        locate(fill_lm(tmp_path / "mine"), cache_dir=cache)


def test_an_incomplete_download_is_not_found(cache: Path) -> None:
    fill_codec(snapshot_dir(cache, SNAC_24KHZ))
    folder = fill_lm(snapshot_dir(cache, OFFICIAL), shards=3)
    assert locate("orpheus-3b", cache_dir=cache).lm == folder
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ModelNotFound):
        locate("orpheus-3b", cache_dir=cache)


def test_a_revision_is_looked_up(cache: Path) -> None:
    fill_codec(snapshot_dir(cache, SNAC_24KHZ))
    fill_lm(snapshot_dir(cache, OFFICIAL))
    other = fill_lm(snapshot_dir(cache, OFFICIAL, commit="b" * 40, ref="v2"))
    assert locate("orpheus-3b", revision="v2", cache_dir=cache).lm == other
    assert locate("orpheus-3b", revision="b" * 40, cache_dir=cache).lm == other
    with pytest.raises(ModelNotFound, match="revision v3"):
        locate("orpheus-3b", revision="v3", cache_dir=cache)


def test_a_shared_checkpoint_has_the_voices_of_both_languages(cache: Path) -> None:
    repo = known_models()["orpheus-3b-es"].repo_ids[0]
    fill_lm(snapshot_dir(cache, repo))
    fill_codec(snapshot_dir(cache, SNAC_24KHZ))
    assert set(locate(repo, cache_dir=cache).spec.voices) >= {"javi", "pietro"}
    assert locate("italian", cache_dir=cache).spec.voices == ("pietro", "giulia", "carlo")


def test_a_directory_describes_itself(tmp_path: Path, cache: Path) -> None:
    block = {
        "voices": ["ann", "ben"],
        "languages": ["nl"],
        "tags": ["sigh"],
        "license": "MIT",
        "spell_numbers": True,
        "max_text_chars": 150,
    }
    folder = fill_lm(tmp_path / "mine", {"orpheus": block})
    (folder / "generation_config.json").write_text(
        '{"temperature": 0.4, "top_p": 0.9, "max_length": 9}'
    )
    codec = fill_codec(folder / "snac")
    spec, lm, found = (files := locate(folder, cache_dir=cache)).spec, files.lm, files.codec
    assert (lm, found) == (folder, codec)
    assert (spec.name, spec.voices, spec.languages, spec.tags) == (
        "mine",
        ("ann", "ben"),
        ("nl",),
        ("sigh",),
    )
    assert (spec.license, spec.spell_numbers, spec.max_utterance_chars) == ("MIT", True, 150)
    assert (spec.sampling.temperature, spec.sampling.top_p) == (0.4, 0.9)
    assert spec.sampling.repetition_penalty == 1.1


def test_a_codec_given_by_hand_comes_first(tmp_path: Path) -> None:
    folder = fill_lm(tmp_path / "mine")
    fill_codec(folder / "snac")
    mine = fill_codec(tmp_path / "codec")
    assert locate(folder, codec=mine).codec == mine
    with pytest.raises(ModelNotFound, match="not a SNAC codec"):
        locate(folder, codec=tmp_path)


@pytest.mark.parametrize(
    ("config", "generation", "message"),
    [
        ('{"orpheus": 5}', "{}", r"config.json: orpheus: Expected `object`, got `int`"),
        ('{"orpheus": {"voices": "tara"}}', "{}", r"Expected `array`, got `str` - at `\$.voices`"),
        ('{"orpheus": {"voices": [1]}}', "{}", r"Expected `str`, got `int` - at `\$.voices\[0\]`"),
        ('{"orpheus": {"spell_numbers": 1}}', "{}", r"Expected `bool`.* at `\$.spell_numbers`"),
        ("not json", "{}", "cannot be read"),
        ("{}", '{"top_p": 7}', r"Expected `float` <= 1.0 - at `\$.top_p`"),
        ("{}", '{"temperature": NaN}', r"Expected `float` >= 0.0 - at `\$.temperature`"),
        ("{}", '{"temperature": "hot"}', r"generation_config.json: Expected `float"),
    ],
)
def test_a_directory_with_a_wrong_description_is_refused(
    tmp_path: Path, config: str, generation: str, message: str
) -> None:
    folder = fill_lm(tmp_path / "mine")
    fill_codec(folder / "snac")
    (folder / "config.json").write_text(config)
    (folder / "generation_config.json").write_text(generation)
    with pytest.raises(BadCheckpoint, match=message):
        locate(folder)


def test_an_invalid_model_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="neither a directory nor one of orpheus-3b"):
        locate("orfeus")
    with pytest.raises(ModelNotFound, match="neither"):
        locate("/nowhere/at/all")
    with pytest.raises(BadCheckpoint, match=r"no config\.json"):
        locate(tmp_path)
    with pytest.raises(InvalidOptions):
        locate("bad owner!/na me")


def test_the_bundled_model_is_known_only_where_its_files_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "_MINI_DIR", tmp_path / "mini")
    assert "mini" not in known_models()
    with pytest.raises(ModelNotFound, match="does not contain"):
        locate("mini")
    folder = fill_lm(tmp_path / "mini", {"orpheus": {"voices": ["heart"], "spell_numbers": True}})
    codec = fill_codec(folder / "snac")
    (folder / "generation_config.json").write_text('{"temperature": 0.7}')
    files = locate("mini")
    assert (files.lm, files.codec) == (folder, codec)
    assert (files.spec.voices, files.spec.spell_numbers) == (("heart",), True)
    assert files.spec.sampling.temperature == 0.7
    assert download("mini") == files


def test_a_download_takes_only_the_needed_files(cache: Path) -> None:
    snapshot = hub(cache, {OFFICIAL: fill_lm, SNAC_24KHZ: fill_codec})
    files = download("orpheus-3b", cache_dir=cache, snapshot=snapshot)
    assert files == locate("orpheus-3b", cache_dir=cache)
    assert [call["repo_id"] for call in snapshot.calls] == [OFFICIAL, SNAC_24KHZ]
    patterns = snapshot.calls[0]["allow_patterns"]

    def taken(name: str) -> bool:
        return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)

    assert all(
        map(
            taken,
            (
                "config.json",
                "tokenizer.json",
                "model-00001-of-00004.safetensors",
                "model.safetensors.index.json",
            ),
        )
    )
    assert not any(
        map(
            taken,
            ("optimizer.bin", "pytorch_model_fsdp_0/__0_0.distcp", "rng_state.pth", "README.md"),
        )
    )


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_model_comes_from_its_mirror(cache: Path, status: int) -> None:
    snapshot = hub(cache, {OFFICIAL: Refusal(status), MIRROR: fill_lm, SNAC_24KHZ: fill_codec})
    files = download("orpheus-3b", revision="v1", cache_dir=cache, snapshot=snapshot)
    assert MIRROR.replace("/", "--") in str(files.lm)
    assert [call["revision"] for call in snapshot.calls] == ["v1", None, None]


def test_a_gated_model_without_mirrors_names_the_steps(cache: Path) -> None:
    snapshot = hub(cache, {known_models()["orpheus-3b-fr"].repo_ids[0]: Refusal(403)})
    with pytest.raises(
        ModelNotFound, match=r"access refused \(403\).*huggingface\.co/.*hf auth login"
    ) as caught:
        download("french", cache_dir=cache, snapshot=snapshot)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionError("Name or service\nnot known"), "no usable connection.*not known"),
        (Refusal(404), "no such repository"),
        (Refusal(503), "the hub answered 503"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left"),
    ],
)
def test_a_failed_download_is_explained_in_one_line(
    cache: Path, error: Exception, message: str
) -> None:
    snapshot = hub(cache, {"someone/tune": error})
    with pytest.raises(ModelNotFound, match=message) as caught:
        download("someone/tune", cache_dir=cache, snapshot=snapshot, progress=False)
    assert "\n" not in str(caught.value)


def test_an_incomplete_download_is_refused(cache: Path) -> None:
    snapshot = hub(
        cache, {"someone/tune": lambda folder: (folder / "config.json").write_text("{}")}
    )
    with pytest.raises(ModelNotFound, match=r"incomplete, no tokenizer\.json"):
        download("someone/tune", cache_dir=cache, snapshot=snapshot)


def test_a_downloaded_fine_tune_describes_itself_and_may_bring_its_codec(cache: Path) -> None:
    def fill(folder: Path) -> None:
        fill_lm(folder, {"orpheus": {"voices": ["kaya"]}})
        fill_codec(folder / "snac")

    snapshot = hub(cache, {"someone/tune": fill})
    files = download("someone/tune", cache_dir=cache, snapshot=snapshot)
    assert files.spec.voices == ("kaya",)
    assert files == locate("someone/tune", cache_dir=cache)
    with pytest.raises(ModelNotFound, match="no model 'orfeus' to download"):
        download("orfeus", cache_dir=cache, snapshot=snapshot)


def test_the_hubs_own_client_offline_gives_one_clear_line(cache: Path) -> None:
    code = (
        "from orpheus_plugin.models.files import download\n"
        "from orpheus_plugin.errors import ModelNotFound\n"
        "try: download('someone/tune', cache_dir=r'%s', progress=False)\n"
        "except ModelNotFound as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code % cache],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert done.stdout.startswith("could not download someone/tune")
    assert done.stdout.count("\n") == 1


def test_models_and_vocabulary_import_without_torch() -> None:
    code = (
        "import sys, orpheus_plugin.models.files, orpheus_plugin.tokens.vocabulary;"
        " sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


# ---- devices


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cpu:1", "cudax", ""])
def test_a_device_must_be_one_torch_could_have(device: str) -> None:
    with pytest.raises(InvalidOptions, match="device must be"):
        pick_device(device)


def test_a_missing_gpu_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(devices, "may_have_gpu", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == "cpu"
    with pytest.raises(InvalidOptions, match="no NVIDIA GPU"):
        pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("auto") == "cuda"
    assert pick_device("cuda:1") == "cuda:1"
    with pytest.raises(InvalidOptions, match="sees 2"):
        pick_device("cuda:2")


def test_with_a_gpu_and_without_torch_one_log_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(devices, "torch_installed", lambda: False)
    monkeypatch.setattr(Path, "exists", lambda path: str(path) == "/dev/nvidiactl")
    devices.warn_of_unused_gpu.cache_clear()
    for _ in range(2):
        assert pick_device("auto") == pick_device("cpu") == "cpu"
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    assert "orpheus_plugin[gpu]" in told[0]
    for device in ("cuda", "cuda:1", "mps"):
        with pytest.raises(InvalidOptions, match=r"needs torch.*orpheus_plugin\[gpu\]"):
            pick_device(device)
