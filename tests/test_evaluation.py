"""`orpheus-tts evaluate`: sentences are spoken, heard and put in one table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from orpheus_plugin.cli.main import main
from orpheus_plugin.engine.local import LocalEngine
from orpheus_plugin.evaluation.pitch import median_pitch
from orpheus_plugin.evaluation.report import figures, speak, table
from orpheus_plugin.models.files import ModelFiles
from tests.support.recogniser import needs_recogniser


@pytest.mark.parametrize("hz", [70.0, 110.0, 200.0, 320.0])
def test_pitch_is_that_of_a_buzz_in_noise(hz: float) -> None:
    time = np.arange(24_000) / 24_000
    buzz = sum(np.sin(2 * np.pi * hz * n * time) / n for n in range(1, 12))
    sound = (0.1 * buzz + 0.01 * np.random.default_rng(0).standard_normal(24_000)).astype("f4")
    sound[8_000:12_000] = 0  # a pause
    found = median_pitch(sound)
    assert found == pytest.approx(hz, rel=0.03)


def test_noise_and_silence_have_no_pitch() -> None:
    noise = np.random.default_rng(0).standard_normal(24_000).astype("f4")
    assert median_pitch(noise) is None
    assert median_pitch(np.zeros(24_000, "f4")) is None
    assert median_pitch(np.zeros(10, "f4")) is None


async def test_every_sentence_is_spoken_and_judged(
    crafted_engine: LocalEngine, tmp_path: Path
) -> None:
    texts = ["Good morning.", "How are you today?"]
    heard = iter(["good mourning", "How are you today"])
    found = await speak(
        crafted_engine,
        "leo",
        texts,
        listen=lambda sound: next(heard),
        score=lambda sound: 3.0,
        sounds=tmp_path,
    )
    assert [(one.wrong, one.words) for one in found] == [(1, 2), (0, 4)]
    assert all(one.seconds > 0.2 and one.rtfx and one.ttfa_s for one in found)
    assert all((tmp_path / name).stat().st_size > 9_600 for name in ("000.wav", "001.wav"))
    told = figures(found)
    assert told["words_wrong"] == pytest.approx(1 / 6)
    assert told["natural"] == 3.0
    lines = table({"leo": told, "nobody": figures([])}).splitlines()
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1
    assert "16.7%" in lines[2]


@pytest.mark.timeout(300)
def test_the_bundled_voices_are_understood_and_differ_in_pitch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needs_recogniser()
    pytest.importorskip("distillmos")
    texts = tmp_path / "texts.txt"
    texts.write_text("I can hear you clearly now.\n\nThat sounds like a good plan.\n")
    report = tmp_path / "report.json"
    command = ["evaluate", "--model", "mini", "--device", "cpu", "--sentences", str(texts)]
    voices = ["--voice", "heart", "--voice", "henry", "--voice", "bruno"]
    assert main([*command, "--adapter", "bruno", *voices, "--json", str(report)]) == 0
    out = capsys.readouterr().out
    assert "| heart" in out
    assert "| bruno (adapter)" in out
    told = json.loads(report.read_text())["figures"]
    heart, *others = told["heart"], told["henry"], told["bruno (adapter)"]
    for one in (heart, *others):
        assert one["sentences"] == 2
        assert one["words_wrong"] < 0.4
        assert 1 < one["natural"] < 5
        assert 8 < one["chars_per_s"] < 25
    assert 160 < heart["pitch_hz"] < 260
    for one in others:
        assert 100 < one["pitch_hz"] < 0.92 * heart["pitch_hz"]


def test_what_cannot_be_evaluated_is_reported(
    crafted_files: ModelFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    for options, why in (
        (["--sentences", str(empty)], "no sentence in it"),
        (["--sentences", str(tmp_path / "nowhere.txt")], "nowhere.txt"),
        (["--voice", "nobody"], "no voice 'nobody'"),
    ):
        assert main(["evaluate", "--model", "mini", *options]) != 0
        assert why in capsys.readouterr().err
