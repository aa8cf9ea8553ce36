"""Utterances end in a mark that fits; words keep what was written."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orpheus_plugin.text.cutter import TextOptions, Utterance, UtteranceCutter
from orpheus_plugin.text.scripts import CLAUSE_MARKS, CLOSERS, SENTENCE_MARKS


def stream(text: str, size: int = 4, language: str = "en") -> list[Utterance]:
    cutter = UtteranceCutter(TextOptions(language=language))
    out = [u for i in range(0, len(text), size) for u in cutter.push(text[i : i + size])]
    return out + cutter.flush()


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("Chapter one", "Chapter one."),
        ("fresh milk and eggs", "fresh milk and eggs."),
        ("We call back!", "We call back!"),
        ("Is it open?", "Is it open?"),
        ("He waited…", "He waited..."),
        ("Then I was going to—", "Then I was going to,"),
        ("She said “later”", 'She said "later".'),
        ('She said "later."', 'She said "later."'),
        ("(as they say)", "as they say."),
        ("Our hours are:", "Our hours are:"),
        ("Great news 🎉", "Great news."),
        ("**Opening hours**", "Opening hours."),
        ("a half-", "a half."),
        ("That is fun <laugh>", "That is fun. <laugh>"),
    ],
)
def test_text_without_an_end_mark_gets_one(text: str, spoken: str) -> None:
    (utterance,) = stream(text, 1000)
    assert utterance.text == spoken


@pytest.mark.parametrize(
    ("language", "text", "spoken"),
    [
        ("zh", "今天天气很好", "今天天气很好。"),
        ("ja", "今日はいい天気です", "今日はいい天気です。"),
        ("hi", "मैं ठीक हूँ", "मैं ठीक हूँ।"),
        ("ar", "أنا بخير", "أنا بخير."),
        ("ko", "안녕하세요", "안녕하세요."),
        ("de", "Guten Morgen", "Guten Morgen."),
    ],
)
def test_the_mark_is_written_as_in_its_script(language: str, text: str, spoken: str) -> None:
    (utterance,) = stream(text, 1000, language)
    assert utterance.text == spoken


@pytest.mark.parametrize(
    ("language", "text", "comma"),
    [
        ("en", "we walked along the old river and nobody said anything about it at all " * 2, ","),
        ("zh", "我们沿着那条古老的河流走了好几个小时而没有人说什么" * 6, "，"),
        ("ja", "わたしたちはながいあいだふるいかわにそってあるきました" * 6, "、"),
    ],
)  # fmt: skip
def test_a_cut_within_a_sentence_ends_in_a_comma(language: str, text: str, comma: str) -> None:
    first, *_, last = stream(text, 4, language)
    assert first.text.endswith(comma)
    assert last.text[-1] in ".。"


def test_the_sentences_of_a_list_end_in_full_stops() -> None:
    got = stream("You need:\n- flour\n- two apples\n- a spoon of sugar", 3)
    assert " ".join(u.text for u in got) == "You need: flour. two apples. a spoon of sugar."


@given(
    st.lists(st.sampled_from(["word", "Mr.", "two,", "😀", "end.", "(so)", "“yes”", "<laugh>", "-",
    "你好", "25", "\n"])),
    st.integers(1, 9),
)  # fmt: skip
@settings(deadline=None)
def test_any_utterance_with_words_ends_in_a_mark_that_no_word_has(
    words: list[str], size: int
) -> None:
    text = " ".join(words)
    cutter = UtteranceCutter()
    got = [u for i in range(0, len(text), size) for u in cutter.push(text[i : i + size])]
    got += cutter.flush()
    for utterance in got:
        last = utterance.text.replace("<laugh>", "").rstrip(CLOSERS + " ")
        assert not last or last[-1] in SENTENCE_MARKS + CLAUSE_MARKS
    written = [w.written for u in got for w in u.words] + [w.written for w in cutter.leftover]
    assert "".join(written) == "".join(text.replace("<laugh>", "").split())
