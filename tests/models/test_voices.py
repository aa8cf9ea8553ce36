"""Which voice speaks for a name: the model's own, a replacement, or none."""

from __future__ import annotations

import logging

import pytest

from orpheus_plugin.errors import UnknownVoice
from orpheus_plugin.models import ModelSpec, check_voice, known_models, voices
from orpheus_plugin.models.voices import pick_voice

ORPHEUS = known_models()["orpheus-3b"].voices


@pytest.fixture(autouse=True)
def nothing_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voices, "_warned", set())


@pytest.mark.parametrize(
    ("name", "voice"),
    [
        *((name, "tara") for name in (None, "", " ", "default", "Default", "TARA")),
        ("Leo", "leo"),
        ("alloy", "tara"),
        ("Echo", "leo"),
        ("autumn", "tara"),
        ("troy", "leo"),
        ("pierre", "tara"),
        ("unmute-prod-website/developer-1.mp3", "zac"),
        ("expresso/ex03-ex01_happy_001_channel1_334s.wav", "tara"),
        ("am_adam", "leo"),
        ("aura-asteria-en", "tara"),
        ("Vivian", "tara"),
    ],
)
def test_voices_of_other_vendors_are_replaced(name: str | None, voice: str) -> None:
    assert pick_voice(ORPHEUS, name, model="m") == voice


@pytest.mark.parametrize("name", ["tara", "zoe", "alloy", "autumn", "a.wav", "af_bella", "유나"])
def test_a_model_with_one_voice_speaks_with_it(name: str) -> None:
    assert pick_voice(("heart",), name, model="m") == "heart"


def test_a_similar_voice_is_preferred_to_the_default() -> None:
    assert pick_voice(("max", "heart"), "af_heart", model="m") == "heart"
    assert pick_voice(("max", "zac"), "onyx", model="m") == "zac"
    assert pick_voice(("max", "zac"), "alloy", model="m") == "max"
    for name in ("leo", "onyx", "am_adam", "troy"):
        assert pick_voice(("heart", "henry"), name, model="m") == "henry"
    assert pick_voice(("heart", "henry"), "zoe", model="m") == "heart"


@pytest.mark.parametrize("name", ["bob", "tarra", "alloy2", "x/y", "é"])
def test_an_unknown_name_is_an_error_that_lists_the_voices(name: str) -> None:
    with pytest.raises(UnknownVoice, match="tara, leah, jess"):
        pick_voice(ORPHEUS, name, model="m")


@pytest.mark.parametrize("name", ["alloy", "pierre", "a.wav"])
def test_in_strict_mode_only_the_models_own_voices_are_accepted(name: str) -> None:
    with pytest.raises(UnknownVoice):
        pick_voice(ORPHEUS, name, model="m", strict=True)
    assert pick_voice(ORPHEUS, "Leo", model="m", strict=True) == "leo"
    assert pick_voice(ORPHEUS, None, model="m", strict=True) == "tara"


def test_each_replaced_voice_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            for name in ("alloy", "ALLOY", "nova", "leo"):
                pick_voice(ORPHEUS, name, model="m")
    assert [record.getMessage() for record in caplog.records] == [
        "m has no voice 'alloy'; 'tara' is used instead",
        "m has no voice 'nova'; 'leah' is used instead",
    ]


def test_a_model_with_unknown_voices_takes_any_name() -> None:
    spec = ModelSpec(name="mine")
    assert check_voice(spec, None) == ""
    assert check_voice(spec, " ") == ""
    assert check_voice(spec, "Bob") == "Bob"
