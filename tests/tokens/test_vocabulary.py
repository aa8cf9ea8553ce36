"""The ids of a model, and its prompts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orpheus_plugin.errors import BadCheckpoint
from orpheus_plugin.tokens.vocabulary import Vocabulary
from tests.support.checkpoints import SMALL_TEXT, crafted_checkpoint, write_tokenizer
from tests.support.ids import audio_id

ORPHEUS = Vocabulary(
    bos=128000,
    eot=128009,
    start_of_speech=128257,
    end_of_speech=128258,
    start_of_human=128259,
    end_of_human=128260,
    start_of_ai=128261,
    audio_base=128266,
    size=156940,
)


@pytest.fixture(scope="module")
def full() -> Vocabulary:
    return Vocabulary.load(crafted_checkpoint())


@pytest.mark.parametrize("text", ["Hi there.", " two  spaces ", "Déjà vu <laugh> 你好 🙂\n", ""])
def test_a_prompt_written_as_text_is_read_as_the_same_ids(full: Vocabulary, text: str) -> None:
    ids = full.prompt("tara", text)
    written = full.decode(ids)
    assert written.startswith("<custom_token_3><|begin_of_text|>tara: ")
    assert full._tokenizer.encode(written, add_special_tokens=False).ids == ids


def test_the_ids_of_orpheus_come_from_the_tokenizer(full: Vocabulary) -> None:
    assert full == ORPHEUS


def test_a_small_text_vocabulary_shifts_all_ids() -> None:
    small = Vocabulary.load(crafted_checkpoint(text=SMALL_TEXT))
    shift = ORPHEUS.audio_base - small.audio_base
    assert shift == 128_000 - SMALL_TEXT
    assert ORPHEUS.end_of_speech - small.end_of_speech == shift
    assert small.bos == SMALL_TEXT
    assert small.size == ORPHEUS.size - shift


def test_a_prompt_is_framed_by_the_control_ids(full: Vocabulary) -> None:
    ids = full.prompt("tara", "Hi there.")
    assert ids[:2] == [128259, 128000]
    assert ids[-4:] == [128009, 128260, 128261, 128257]
    assert ids[2:-4] == full.text_ids("tara: Hi there.")
    assert full.prompt(None, "Hi")[2:-4] == full.prompt("", "Hi")[2:-4] == full.text_ids("Hi")


@given(text=st.text(alphabet=st.characters(exclude_categories=())))
def test_a_prompt_has_one_bos_and_no_mark_of_its_text(full: Vocabulary, text: str) -> None:
    ids = full.prompt(
        "tara", text + "<|begin_of_text|><custom_token_2><custom_token_99><|eot_id|>" + text
    )
    assert ids.count(full.bos) == 1
    assert ids.count(full.eot) == 1
    assert all(i < 128000 for i in ids[2:-4])


def test_audio_ids_are_those_of_orpheus() -> None:
    assert audio_id(ORPHEUS, 0, 0) == 128266
    assert audio_id(ORPHEUS, 6, 4095) == 156937


def spoil(folder: Path, change: object) -> Path:
    write_tokenizer(folder, SMALL_TEXT)
    path = folder / "tokenizer.json"
    value = json.loads(path.read_text("utf-8"))
    change(value)  # type: ignore[operator]
    path.write_text(json.dumps(value), "utf-8")
    return folder


def test_a_tokenizer_without_audio_tokens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match="not an Orpheus tokenizer"):
        Vocabulary.load(spoil(tmp_path, lambda t: t["added_tokens"].__delitem__(slice(300, None))))


def test_audio_tokens_out_of_order_are_refused(tmp_path: Path) -> None:
    def swap(tokenizer: dict) -> None:  # type: ignore[type-arg]
        added = tokenizer["added_tokens"]
        added[400]["content"], added[401]["content"] = added[401]["content"], added[400]["content"]

    with pytest.raises(BadCheckpoint, match="is not in the run"):
        Vocabulary.load(spoil(tmp_path, swap))


def test_missing_broken_and_too_small_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match=r"no tokenizer\.json"):
        Vocabulary.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BadCheckpoint, match="not a tokenizer"):
        Vocabulary.load(tmp_path)
    write_tokenizer(tmp_path, SMALL_TEXT)
    (tmp_path / "config.json").write_text('{"vocab_size": 20000}')
    with pytest.raises(BadCheckpoint, match="knows 20000 ids"):
        Vocabulary.load(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(BadCheckpoint, match="not a JSON object"):
        Vocabulary.load(tmp_path)
