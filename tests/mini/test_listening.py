"""The bundled voice is understood and sounds natural: twenty held-out sentences are measured."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.mini_voice import measure, summary
from orpheus_plugin.evaluation.judge import errors, words

SENTENCES = 20
MOST_WRONG = 0.25
"""Measured 0.11 on all 200 when the files were made (teacher 0.04). Twenty sentences
are few and sampling differs between machines; the figure that counts is the benchmark's."""


LEAST_NATURAL = 3.0
"""Mean opinion score by DistillMOS. The shipped files have 3.47 on all 200 sentences."""


@pytest.mark.timeout(600)
def test_held_out_sentences_are_understood_and_sound_natural(
    record_property: Callable[[str, object], None],
) -> None:
    found = measure(SENTENCES)
    figures = summary(found)
    record_property(
        "bundled voice",
        f"word error rate {100 * figures['wer']:.1f} % on {SENTENCES} held-out sentences (teacher"
        f" {100 * figures['teacher_wer']:.1f} %), naturalness {figures['natural']:.2f} of 5"
        f" (teacher {figures['teacher_natural']:.2f})",
    )
    assert figures["wer"] <= MOST_WRONG, [(s.text, s.heard) for s in found if s.wrong]
    assert figures["natural"] >= LEAST_NATURAL, [(s.text, s.natural) for s in found]
    assert figures["stopped"] == 1
    assert figures["out_of_order"] == 0
    assert figures["duration_longest"] <= 1.6


@pytest.mark.parametrize(
    ("text", "heard"),
    [
        ("Your total is forty-two dollars and fifty cents.", "Your total is $42.50."),
        ("at three thirty p m", "At 3:30 p.m."),
        ("one thousand, two hundred and thirty-four", "1,234"),
        ("the code is four two oh one", "The code is 4201."),
        ("the twenty-third of March, nineteen eighty-five", "the 23rd of March 1985"),
        ("four point five percent", "4.5%"),
    ],
)
def test_numbers_compare_equal_spelled_or_in_figures(text: str, heard: str) -> None:
    assert words(text) == words(heard)


def test_errors_count_words() -> None:
    assert errors("the cat sat", "the cat sat.") == (0, 3)
    assert errors("the cat sat", "a cat") == (2, 3)
    assert errors("good morning", "") == (2, 2)
