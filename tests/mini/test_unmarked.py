"""A share of the utterances is learned without an end mark, as titles are written."""

from __future__ import annotations

import numpy as np
import pytest

from training import vocabulary as v
from training.codes import PHONEME_INDEX, Utterance, frames, spelled_words
from training.lm_train import UNMARKED, Sampler, collate, unmarked


def utterance(text: str, symbols: str, pointers: list[int]) -> Utterance:
    """Speech of one unit's length a symbol, at a steady pitch and level."""
    phonemes = np.array([PHONEME_INDEX[c] for c in symbols])
    units = np.full(len(symbols), 4)
    steps = 2 * int(units.sum())
    pitch, level = np.full(steps, 200, np.float32), np.full(steps, -20, np.float32)
    words = spelled_words(text, symbols, phonemes)
    return Utterance(text, phonemes, units, np.array(pointers), pitch, level, words)


def good_day(end: str) -> Utterance:
    return utterance(
        f"good day{end}", "_ɡˈʊd dˈA" + end[:1] + "_", [0, 0, 1, 1, 3, 4, 5, 6, 6, 8, 8]
    )


@pytest.mark.parametrize("end", [".", ",", "!", ":", "..."])
def test_the_same_speech_is_learned_from_a_text_without_its_end_mark(end: str) -> None:
    whole = good_day(end)
    bare = unmarked(whole)
    assert bare.text == "good day"
    a, b = frames(whole), frames(bare)
    np.testing.assert_array_equal(a.codes[:, 1:], b.codes[:, 1:])
    assert b.reading.max() == len(bare.text)
    assert v.prompt(bare.text) == v.prompt("Good day")


def test_a_question_mark_stays() -> None:
    assert unmarked(good_day("?")).text == "good day?"


def test_a_bare_text_makes_a_batch_whose_guides_lie_inside_the_prompt() -> None:
    bare = unmarked(good_day("."))
    batch = collate([bare, good_day(".")], 1.0)
    head = len(v.prompt(bare.text))
    assert int(batch.look[0].max()) < head
    assert int(batch.spell[:, 1].max()) < head


def test_about_a_quarter_of_what_is_drawn_has_no_end_mark() -> None:
    sampler = Sampler([good_day(".") for _ in range(40)], 4600, 0)
    bare = texts = 0
    for _ in range(30):
        ids = sampler.draw(1.0, 1.0).ids.tolist()
        ends = [row[row.index(v.EOT) - 1] for row in ids]
        bare += sum(end != v.letters(".")[0] for end in ends)
        texts += len(ends)
    assert texts > 300
    assert abs(bare / texts - UNMARKED) < 0.1
