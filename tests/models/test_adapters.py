"""Which adapters a name stands for: folders, the hub's cache, and fetching them."""

from __future__ import annotations

from pathlib import Path

import pytest

from orpheus_plugin.errors import InvalidOptions, ModelNotFound
from orpheus_plugin.models.adapters import AdapterVoice, download_adapter, find_adapters
from tests.models.test_files import Refusal, hub, snapshot_dir


def fill(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"x")
    return folder


def test_prompts_name_an_adapter_as_its_voice_or_as_its_source_says(tmp_path: Path) -> None:
    folder = str(fill(tmp_path / "one"))
    asked = {"Alice": folder, "bob": f"{folder}#Robert Smith", "eve": f"{folder}#"}
    assert find_adapters(asked) == {
        "Alice": AdapterVoice(folder, "Alice"),
        "bob": AdapterVoice(folder, "Robert Smith"),
        "eve": AdapterVoice(folder, ""),
    }


def test_a_folder_may_have_the_mark_in_its_name(tmp_path: Path) -> None:
    folder = str(fill(tmp_path / "take#2"))
    assert find_adapters({"alice": folder})["alice"] == AdapterVoice(folder, "alice")
    assert find_adapters({"alice": f"{folder}#ally"})["alice"] == AdapterVoice(folder, "ally")


@pytest.mark.parametrize("name", ["", "default", " alice", "a,b", "a=b", "a:b", "a#b", "a\nb"])
def test_invalid_voice_names_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidOptions, match="name"):
        find_adapters({name: str(fill(tmp_path / "one"))})


def test_a_voice_of_the_model_keeps_its_name(tmp_path: Path) -> None:
    folder = str(fill(tmp_path / "one"))
    with pytest.raises(InvalidOptions, match=r"'tara' already.*NEWNAME=SOURCE#Tara"):
        find_adapters({"Tara": folder}, voices=("tara",))
    with pytest.raises(InvalidOptions, match="'alice' already"):
        find_adapters({"alice": folder, "Alice": folder})


def test_adapters_of_the_hub_are_found_in_its_cache_and_fetched_without_pickles(
    tmp_path: Path,
) -> None:
    with pytest.raises(ModelNotFound, match=r"orpheus-tts download --adapter someone/alice$"):
        find_adapters({"alice": "someone/alice#ally"}, cache_dir=tmp_path)
    snapshot = hub(tmp_path, {"someone/alice": fill})
    folder = download_adapter("someone/alice#ally", cache_dir=tmp_path, snapshot=snapshot)
    assert folder == snapshot_dir(tmp_path, "someone/alice")
    (call,) = snapshot.calls
    assert set(call["allow_patterns"]) == {"adapter_config.json", "adapter_model.safetensors"}
    found = find_adapters({"alice": "someone/alice#ally"}, cache_dir=tmp_path)
    assert found == {"alice": AdapterVoice(str(folder), "ally")}


def test_a_failed_download_reports_the_reason(tmp_path: Path) -> None:
    def pickled(folder: Path) -> None:
        (folder / "adapter_config.json").write_text("{}")

    snapshot = hub(tmp_path, {"someone/old": pickled, "someone/gone": Refusal(404)})
    for source, why in (
        ("someone/old", r"no adapter_model\.safetensors \(a pickled one"),
        ("someone/gone", "no such repository"),
        ("alice", "use owner/name"),
    ):
        with pytest.raises(ModelNotFound, match=why):
            download_adapter(source, cache_dir=tmp_path, snapshot=snapshot, progress=False)
    with pytest.raises(ModelNotFound, match="'alice': no directory nowhere"):
        find_adapters({"alice": "nowhere"}, cache_dir=tmp_path)
