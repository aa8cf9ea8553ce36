"""Where a sentence ends in text that is still arriving.

Judging abbreviations in a dozen languages is left to `sentencex`; it reads finished text, so this module decides
*when* enough text has come for a verdict that later text cannot change, and asks it about that one place only.
Every verdict depends on the text up to a fixed point behind the mark, never on how the text was split on arrival.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

import sentencex  # type: ignore[import-untyped]

_WIDE = "。！？｡"  # end a sentence without a space behind them
_CERTAIN = "!?؟।॥۔"  # end a sentence as soon as a space follows
_QUOTES = "\"'”’»」』)]}"
_MARK = re.compile(
    rf"(?P<newline>\n)|(?P<run>[.…{_CERTAIN}{_WIDE}]+)"
    rf"(?P<closers>[{re.escape(_QUOTES)}*_`\U0001F000-\U0001FAFF\u2600-\u27BF\uFE0F\u200D]*)"
)
_LAST_WORDS = re.compile(r"(?:\S+\s+){0,2}\S*$")
_LIST_MARKER = re.compile(r"\s*(?:[-*+•·▪>|#]|\d{1,3}[.)]\s)")
_NUMBER_MARKER = re.compile(r"\s*(?:\d{1,3}|[a-zA-Z])$")
_NOT_LETTERS = re.compile(r"[^\w.\s-]+")
_ALWAYS_ENDS = frozenset({"ok"})
_NEVER_LIST = (
    "approx tues thurs dept tel incl excl ext tsp tbsp inkl exkl zzgl bzw ggf evtl aprox т.е"
)
_NEVER_ENDS = frozenset(_NEVER_LIST.split())
_SHORT_LINE = 60


class SentenceEnd(NamedTuple):
    """A mark that ends a sentence: where the mark begins and where the sentence is over."""

    mark: int
    end: int


def find_sentence_end(
    text: str, scan: int, start: int, *, language: str, final: bool
) -> tuple[SentenceEnd | None, int]:
    """Look for the first certain sentence end at or behind `scan` in a sentence that begins at `start`.

    Returns it, or None, and the place up to which everything is decided. With `final` nothing more will come.
    """
    while match := _MARK.search(text, scan):
        judge = _newline_ends if match["newline"] else _run_ends
        verdict = judge(text, match, start, language, final)
        if verdict is None:
            return None, match.start()
        if verdict:
            end = match.start() if match["newline"] else match.end()
            return SentenceEnd(match.start(), end), match.end()
        scan = match.end()
    return None, len(text)


def _run_ends(
    text: str, match: re.Match[str], start: int, language: str, final: bool
) -> bool | None:
    end, run, closers = match.end(), match["run"], match["closers"]
    quoted = any(c in _QUOTES for c in closers)
    if end == len(text):
        return True if final else None
    if any(c in _WIDE for c in run):
        return True
    if text[end] == "<":
        if end + 1 == len(text) and not final:
            return None
        if not text[end + 1 : end + 2].isalpha():
            return False
    elif not text[end].isspace():
        return False
    if run[-1] in _CERTAIN and not quoted:
        return True
    after = _next_visible(text, end)
    if after is None:
        return True if final or text.count("\n", end) >= 2 else None
    following = text[after]
    if run == ".":
        line = text[max(text.rfind("\n", 0, match.start()) + 1, start) : match.start()]
        if _NUMBER_MARKER.match(line):
            return False
        if "\n" in text[end:after]:
            return True
        return _full_stop_ends(text, match.start(), start, after, language, final)
    if "\n" in text[end:after]:
        return True
    # "Wait... what", "I mean... I think": hesitation goes on
    return not following.islower() and not (run[-1] in ".…" and following == "I")


def _full_stop_ends(
    text: str, stop: int, start: int, after: int, language: str, final: bool
) -> bool | None:
    before = _NOT_LETTERS.sub("", _LAST_WORDS.search(text[start:stop])[0])  # type: ignore[index]
    last = before.rsplit(None, 1)[-1].lower() if before.strip() else ""
    if last in _ALWAYS_ENDS:
        return True
    if last in _NEVER_ENDS:
        return False
    first = text[after] if text[after].isalnum() else "X"
    # One letter is enough unless a whole word could change the verdict: "the U.S. Then", "am 3. März".
    if _splits(language, before, first) and not last.isdigit():
        return True
    word_end = after
    while word_end < len(text) and not text[word_end].isspace():
        word_end += 1
    if word_end == len(text) and not final:
        return None
    word = _NOT_LETTERS.sub("", text[after:word_end]).strip(".") or "X"
    return _splits(language, before, word + " ")


@lru_cache(maxsize=1024)
def _splits(language: str, before: str, after: str) -> bool:
    head = f"{before.strip()}. "
    length = 0
    for piece in sentencex.segment(language, head + after):
        length += len(piece)
        if length >= len(head) - 1:
            return length <= len(head)
    return False


def _newline_ends(
    text: str, match: re.Match[str], start: int, language: str, final: bool
) -> bool | None:
    place = match.start()
    line = text[max(text.rfind("\n", 0, place) + 1, start) : place]
    if not any(c.isalnum() for c in line):
        return False
    after = _next_visible(text, place)
    if text.count("\n", place, after) >= 2:
        return True
    if after is None:
        return True if final else None
    if text[after].islower():
        return False
    listed = text[after] in "-*+•·▪>|#" or _LIST_MARKER.match(line) is not None
    return listed or len(line.strip()) < _SHORT_LINE


def _next_visible(text: str, place: int) -> int | None:
    for index in range(place, len(text)):
        if not text[index].isspace():
            return index
    return None
