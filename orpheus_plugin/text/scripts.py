"""Punctuation and writing systems: which marks end a sentence or a clause, and which characters are
words."""

from __future__ import annotations

import re

SENTENCE_MARKS = ".!?…。！？｡؟।॥۔"
WIDE_MARKS = "。！？｡"
"""End a sentence without a space after them."""
CERTAIN_MARKS = "!?؟।॥۔"
"""End a sentence if a space follows; after a full stop or an ellipsis the next word decides."""
CLAUSE_MARKS = ",;:，；：、،؛"
WIDE_CLAUSE_MARKS = "，；：、،؛"
"""End a clause without a space after them."""
CLOSERS = "\"'”’»」』)]}"
"""Quotes and brackets that may follow a mark and belong to its sentence."""

_IDEOGRAPHS = r"\u3400-\u9fff\uf900-\ufaff"
_KANA = r"\u3040-\u30ff"
CJK = rf"[{_KANA}{_IDEOGRAPHS}]"
"""A pattern: one Chinese or Japanese character, which is a word of its own."""
HAS_CJK = re.compile(CJK)
_CJK_PIECE = re.compile(rf"[^\w\s]*{CJK}[^\w\s]*|(?:(?!{CJK}).)+")

_STOPS = ((HAS_CJK, "。"), (re.compile(r"[\u0900-\u097f]"), "।"))
_COMMAS = (
    (re.compile(rf"[{_KANA}]"), "、"),
    (re.compile(rf"[{_IDEOGRAPHS}]"), "，"),
    (re.compile(r"[\u0600-\u06ff]"), "،"),
)


def split_cjk(token: str) -> list[str]:
    """Words of a run without spaces: Chinese and Japanese go character by character."""
    return _CJK_PIECE.findall(token) if HAS_CJK.search(token) else [token] if token else []


def last_mark(text: str) -> str:
    """The sentence or clause mark at the end of a text, before closing quotes and brackets; "" if
    there is none."""
    last = text.rstrip(CLOSERS)[-1:]
    return last if last and last in SENTENCE_MARKS + CLAUSE_MARKS else ""


def end_mark(text: str, *, within: bool) -> str:
    """The mark that a text needs at its end, in its script; "" if it has one.

    Args:
        within: the sentence continues after the text, so the mark is a comma; else it is a full
            stop.
    """
    if last_mark(text):
        return ""
    nearby = text[-16:]
    marks, usual = (_COMMAS, ",") if within else (_STOPS, ".")
    return next((mark for script, mark in marks if script.search(nearby)), usual)
