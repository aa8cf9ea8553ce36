"""A table of pronunciations changes what is spoken and nothing that was written."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from orpheus_plugin.engine.config import EngineConfig
from orpheus_plugin.engine.factory import text_options
from orpheus_plugin.errors import InvalidOptions
from orpheus_plugin.models.catalog import ModelSpec
from orpheus_plugin.options import SpeechOptions
from orpheus_plugin.protocol import options_to_map, pack, read_options
from orpheus_plugin.text import Pronunciations, TextOptions, UtteranceCutter

TABLE = Pronunciations(
    {"Siobhan": "shi vawn", "Des Moines": "duh moyn", "sql": "sequel", "kg": "kay gee",
    "C3PO": "see three pee oh"}
)  # fmt: skip


def said(text: str, table: Pronunciations = TABLE, *, spell: bool = True) -> str:
    cutter = UtteranceCutter(TextOptions(pronunciations=table, spell_numbers=spell))
    return " ".join(u.text for u in [*cutter.push(text), *cutter.flush()])


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("Ask Siobhan.", "Ask shi vawn."),
        ("Siobhan's car", "shi vawn's car."),
        ("Is (Siobhan) here?", "Is, shi vawn, here?"),
        ("**Siobhan**, come!", "shi vawn, come!"),
        ("Siobhan-Marie", "shi vawn-Marie."),
        ("siobhan stays", "siobhan stays."),
        ("SIOBHAN stays", "SIOBHAN stays."),
        ("Siobhandra stays", "Siobhandra stays."),
        ("Sql and SQL and sql", "sequel and sequel and sequel."),
        ("In Des Moines, Iowa", "In duh moyn, Iowa."),
        ("Des and Moines", "Des and Moines."),
        ("5 kg of it", "five kay gee of it."),
        ("Meet C3PO on May 4", "Meet see three pee oh on May fourth."),
    ],
)
def test_whole_words_are_spoken_as_the_table_says(text: str, spoken: str) -> None:
    assert said(text) == spoken


def test_it_works_without_numbers_being_spelled() -> None:
    assert said("Siobhan has 5", spell=False) == "shi vawn has 5."


def test_transcripts_keep_what_was_written() -> None:
    cutter = UtteranceCutter(TextOptions(pronunciations=TABLE))
    (utterance,) = [*cutter.push("Tell Siobhan in Des Moines!"), *cutter.flush()]
    assert [w.written for w in utterance.words] == ["Tell", "Siobhan", "in", "Des", "Moines!"]
    assert [w.spoken for w in utterance.words] == ["Tell", "shi vawn", "in", "duh", "moyn!"]


@pytest.mark.parametrize(
    "table",
    [{"": "x"}, {"...": "x"}, {"a": ""}, {"a": "!"}, {"a": 5}, {5: "a"}, {"a": "x" * 500}, ["a"],
    "a=b",
     {f"w{i}": "x" for i in range(3000)}],
)  # fmt: skip
def test_a_bad_table_is_refused(table: object) -> None:
    with pytest.raises(InvalidOptions, match="pronunciation"):
        Pronunciations(table)  # type: ignore[arg-type]
    with pytest.raises(InvalidOptions):
        SpeechOptions(pronunciations=table)  # type: ignore[arg-type]
    with pytest.raises(InvalidOptions):
        EngineConfig(pronunciations=table)  # type: ignore[arg-type]


def test_a_file_has_a_word_and_its_pronunciation_on_each_line(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("# names\n\nSiobhan = shi vawn\nDes Moines=duh moyn\n", "utf-8")
    assert Pronunciations.from_file(path) == {"Siobhan": "shi vawn", "Des Moines": "duh moyn"}
    path.write_text("Siobhan = shi vawn\nNguyen win\n", "utf-8")
    with pytest.raises(InvalidOptions, match="line 2"):
        Pronunciations.from_file(path)
    path.write_text("Siobhan =\n", "utf-8")
    with pytest.raises(InvalidOptions, match="line 1"):
        Pronunciations.from_file(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidOptions, match="cannot read"):
        Pronunciations.from_file(path)
    with pytest.raises(InvalidOptions, match="cannot read"):
        Pronunciations.from_file(tmp_path / "none.txt")


def test_a_turns_table_is_added_to_the_engines() -> None:
    config = EngineConfig(pronunciations={"Siobhan": "shi vawn", "Nguyen": "win"})
    assert config == EngineConfig(pronunciations={"Nguyen": "win", "Siobhan": "shi vawn"})
    assert len({config, EngineConfig(pronunciations={"Nguyen": "win", "Siobhan": "shi vawn"})}) == 1
    options = text_options(
        ModelSpec("x"), config, SpeechOptions(pronunciations={"Nguyen": "nwin"}, spell_numbers=True)
    )
    assert dict(options.pronunciations) == {"Siobhan": "shi vawn", "Nguyen": "nwin"}
    assert options.spell_numbers


@pytest.mark.parametrize("model", [True, False])
def test_a_turns_setting_wins_over_its_engines_and_that_over_its_models(model: bool) -> None:
    spec = ModelSpec("x", spell_numbers=model)
    assert text_options(spec).spell_numbers is model
    assert text_options(spec, EngineConfig(spell_numbers=not model)).spell_numbers is not model
    asked = text_options(
        spec, EngineConfig(spell_numbers=not model), SpeechOptions(spell_numbers=model)
    )
    assert asked.spell_numbers is model


def test_pronunciations_are_sent_to_a_server() -> None:
    options = SpeechOptions(
        pronunciations={f"Name{i}": "neim" for i in range(300)}, spell_numbers=False
    )
    assert read_options(msgspec.Raw(pack(options_to_map(options)))) == options
    for wrong in (
        {"pronunciations": {"a": 1}},
        {"pronunciations": {"": "x"}},
        {"spell_numbers": "yes"},
    ):
        with pytest.raises(InvalidOptions):
            read_options(msgspec.Raw(pack({**wrong})))
