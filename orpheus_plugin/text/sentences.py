"""Where a sentence ends in text that is still arriving.

`sentencex` knows the abbreviations of a dozen languages, but reads finished text. So this module
decides *when* enough text has come for a decision that later text cannot change, and asks it about
that one place only. Every decision depends on the text up to a fixed point after the mark, never on
how the text was split on arrival.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

import sentencex  # type: ignore[import-untyped]

from orpheus_plugin.text.languages.de import DETERMINERS, NUMBERED
from orpheus_plugin.text.scripts import CERTAIN_MARKS, CLOSERS, SENTENCE_MARKS, WIDE_MARKS

_LONGEST_RUN = 64
"""The most marks, spaces or letters in a row that are read for one decision, so that its cost is
limited."""
_MARK = re.compile(
    rf"(?P<newline>\n)|(?P<run>[{SENTENCE_MARKS}]{{1,{_LONGEST_RUN}}})"
    rf"(?P<closers>[{re.escape(CLOSERS)}*_`\U0001F000-\U0001FAFF\u2600-\u27BF\uFE0F\u200D]{{0,{_LONGEST_RUN}}})"
)
_LIST_MARKER = re.compile(r"\s*(?:[-*+•·▪>|#]|\d{1,3}[.)]\s)")
_NUMBER_MARKER = re.compile(r"\s*(?:\d{1,3}|[a-zA-Z])$")
_NOT_LETTERS = re.compile(r"[^\w.\s-]+")
_ALWAYS_ENDS = frozenset({"ok"})
_NEVER_LIST = (
    "apt ste rte approx vol fig tues thurs dept tel incl excl ext tsp tbsp inkl exkl zzgl bzw ggf"
    " evtl aprox"
    " т.е"
)
_NEVER_ENDS = frozenset(_NEVER_LIST.split())
_NEVER_BEFORE_FIGURES = frozenset({"max", "min", "nos", "pp"})
_NEVER_BEFORE_SMALL = frozenset({"mon", "tue", "thu", "thur", "fri"})
_GERMAN_ORDINAL = re.compile(r"\d{1,3}(?:\.?[-/]\d{1,3})?")
_BEFORE_GERMAN_ORDINAL = DETERMINERS | {"und", "oder"}  # "am 3. Tag"
_SHORT_LINE = 60


class SentenceEnd(NamedTuple):
    """A mark that ends a sentence: where the mark begins and where the sentence is over."""

    mark: int
    end: int


def find_sentence_end(
    text: str, scan: int, start: int, stop: int, *, language: str, final: bool
) -> tuple[SentenceEnd | None, int]:
    """Look for the first certain sentence end from `scan` on in a sentence that begins at `start`.

    Returns it, or None, and the place up to which everything is decided. Marks after `stop` are not
    read: the caller cuts before them. With `final` no more text will come.

    Cost: one pass over `text[scan:stop]`; for each mark at most 200 characters around it are read.
    """
    while match := _MARK.search(text, scan):
        if match.start() > stop:
            return None, match.start()
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
    quoted = any(c in CLOSERS for c in closers)
    if end == len(text):
        return True if final else None
    if any(c in WIDE_MARKS for c in run):
        return True
    if text[end] == "<":
        if end + 1 == len(text) and not final:
            return None
        if not text[end + 1 : end + 2].isalpha():
            return False
    elif not text[end].isspace():
        return False
    if run[-1] in CERTAIN_MARKS and not quoted:
        return True
    after = _next_visible(text, end)
    if after is None:
        certain = final or len(text) - end >= _LONGEST_RUN or text.count("\n", end) >= 2
        return True if certain else None
    following = text[after]
    if run == ".":
        if _NUMBER_MARKER.match(_line_before(text, match.start(), start)):
            return False
        if "\n" in text[end:after]:
            return True
        return _full_stop_ends(text, match.start(), start, after, language, final)
    if "\n" in text[end:after]:
        return True
    # "Wait... what", "I mean... I think": the sentence continues
    return not following.islower() and not (run[-1] in ".…" and following == "I")


def _full_stop_ends(
    text: str, stop: int, start: int, after: int, language: str, final: bool
) -> bool | None:
    near = text[max(start, stop - _LONGEST_RUN) : stop].rsplit(None, 3)[-3:]
    before = _NOT_LETTERS.sub("", " ".join(near))
    last = before.rsplit(None, 1)[-1].lower() if before.strip() else ""
    if last in _ALWAYS_ENDS:
        return True
    if (
        last in _NEVER_ENDS
        or (last in _NEVER_BEFORE_FIGURES and text[after].isdecimal())
        or (last in _NEVER_BEFORE_SMALL and text[after].islower())
    ):
        return False
    ordinal = language == "de" and _GERMAN_ORDINAL.fullmatch(last) is not None
    if ordinal:
        words = before.lower().split()
        if len(words) > 1 and words[-2] in _BEFORE_GERMAN_ORDINAL:
            return False
    first = text[after] if text[after].isalnum() else "X"
    # One letter is enough unless a whole word could change the decision: "the U.S. Then", "am 3.
    # März".
    if _splits(language, before, first) and not last.isdigit():
        return True
    following = text[after : after + _LONGEST_RUN].split(None, 1)
    word = following[0]
    if after + len(word) == len(text) and len(word) < _LONGEST_RUN and not final:
        return None
    word = _NOT_LETTERS.sub("", word).strip(".") or "X"
    if ordinal and word.lower() in NUMBERED:
        return False
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
    line = _line_before(text, place, start)
    if not any(c.isalnum() for c in line):
        return False
    after = _next_visible(text, place)
    if text.count("\n", place, place + _LONGEST_RUN if after is None else after) >= 2:
        return True
    if after is None:
        return True if final or len(text) - place >= _LONGEST_RUN else None
    if text[after].islower():
        return False
    listed = text[after] in "-*+•·▪>|#" or _LIST_MARKER.match(line) is not None
    return listed or len(line.strip()) < _SHORT_LINE


def _line_before(text: str, place: int, start: int) -> str:
    """The line before a place, within its sentence; only the last characters of a long one."""
    start = max(start, place - 2 * _LONGEST_RUN)
    return text[max(text.rfind("\n", start, place) + 1, start) : place]


def _next_visible(text: str, place: int) -> int | None:
    """Where the next visible character is; None if there is none yet, or if only space is near."""
    near = text[place : place + _LONGEST_RUN]
    visible = near.lstrip()
    return place + len(near) - len(visible) if visible else None
