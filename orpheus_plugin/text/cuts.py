"""Where to cut within a sentence: early, so that speech begins soon, or because it is too long."""

from __future__ import annotations

import itertools
import re

from orpheus_plugin.text.scripts import CJK, CLAUSE_MARKS, CLOSERS, WIDE_CLAUSE_MARKS
from orpheus_plugin.text.tags import may_cut

_CLAUSE = re.compile(
    rf"[{CLAUSE_MARKS}][{re.escape(CLOSERS)}*_]{{0,8}}(?=\s)|[{WIDE_CLAUSE_MARKS}]|(?<=\w)—(?=\w)|\s[-–—](?=\s)"
)
_CONJUNCTION = re.compile(
    r"\s(?=(?:and|or|but|so|because|which|that|when|while|if|since|"
    r"et|mais|parce|que|und|oder|aber|weil|dass|y|pero|porque|ma|perché)\s)"
)
_BREAK = re.compile(rf"\s|(?<={CJK})|(?={CJK})")
_LINK = re.compile(r"\s*[(\[<\"']?(?:https?://|www\.)[\w.-]+(?::\d+)?[/?#]")
_NUMBER = re.compile(r"[$€£#^]*\d[\d.,]*|[²³¹¼-¾⅐-⅞]|[$€£#^]+")
"""A number, or its sign alone: it takes the most time to read, and is longer in speech."""
_MOST_NUMBERS = 16
_WORD = re.compile(rf"{CJK}|[^\s{CJK[1:-1]}]+")
_MOST_WORDS = 64  # 280 characters of talk have some 55


def early_cut(text: str, clause_chars: int, max_chars: int) -> int:
    """Where the first utterance may end although its sentence has not; 0 is nowhere yet.

    Args:
        clause_chars: from this length on at a comma or the like; 0 turns early cuts off.
        max_chars: from this length on at a space.
    """
    if not clause_chars or len(text) < clause_chars:
        return 0
    lead = len(text) - len(text.lstrip())
    for match in _CLAUSE.finditer(text):
        if match.end() - lead >= clause_chars and may_cut(text, match.end()):
            return match.end()
    if len(text) <= max(max_chars, clause_chars):
        return 0
    head = text[:max_chars]
    for pattern in (_CONJUNCTION, _BREAK):
        for match in reversed(list(pattern.finditer(head, clause_chars))):
            if may_cut(text, match.start()):
                return match.start()
    return 0


def most_chars(text: str, max_chars: int) -> int:
    """The most characters of the utterance that begins the text: fewer with many numbers, with very
    short words, and in Chinese and Japanese."""
    for pattern, most in ((_WORD, _MOST_WORDS), (_NUMBER, _MOST_NUMBERS)):
        found = pattern.finditer(text, 0, max_chars)
        if one_too_many := next(itertools.islice(found, most, None), None):
            max_chars = one_too_many.start()
    return max_chars


def emergency_cut(text: str, limit: int) -> int:
    """Where to cut a sentence that is longer than `limit`: a clause, else a space, else in the
    middle of a word. 0: within a link whose end has not come."""
    head = text[:limit]
    for match in reversed(list(_CLAUSE.finditer(head, limit // 3))):
        if may_cut(text, match.end()):
            return match.end()
    for match in reversed(list(_BREAK.finditer(head, 1))):
        if match.start() and may_cut(text, match.start()):
            return match.start()
    if not _LINK.match(text):
        return limit
    # A link stays whole up to a limit: little of it is spoken.
    later = _BREAK.search(text, limit, 4 * limit)
    if later:
        return later.start()
    return 4 * limit if len(text) > 4 * limit else 0
