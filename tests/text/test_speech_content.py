"""Whether there is anything to speak."""

from __future__ import annotations

import pytest

from orpheus_plugin.text.speech_content import HEAD_CHARS, is_sayable, may_be_sayable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hi", True), ("5", True), ("你好", True), ("<laugh>", True), ("...", False),
        ("😀 🎉", False),
        ("**", False), ("", False),
        ("- ", False), ("```\ncode\n```", False), ("<unheard>", False),
        ("😀" * HEAD_CHARS + "Hi", True),
    ],
)  # fmt: skip
def test_a_sentence_is_sayable_if_something_of_it_is_spoken(text: str, expected: bool) -> None:
    assert is_sayable(text, ("laugh",)) is expected


def test_tags_that_are_not_known_yet_count() -> None:
    assert is_sayable("<laugh>", ())
    assert not is_sayable("<laugh>", ("sigh",))


def test_a_piece_may_be_sayable_if_it_holds_a_letter_a_figure_or_a_sign() -> None:
    assert may_be_sayable("5%")
    assert not may_be_sayable("😀 ")
