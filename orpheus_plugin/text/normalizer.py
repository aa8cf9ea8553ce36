"""The spoken form of each written word: markdown, links, symbols and emoji become speech or
silence.

Works on the words of one utterance at a time and gives one spoken form for each word, so that
transcripts stay aligned.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple
from unicodedata import is_normalized

from orpheus_plugin.text.addresses import say_addresses
from orpheus_plugin.text.languages import language as language_of
from orpheus_plugin.text.languages.base import word_set
from orpheus_plugin.text.markdown import (
    plain,
    unescaped,
    without_brackets,
    without_formulas,
    without_links,
    without_marks,
)
from orpheus_plugin.text.pronunciations import Pronunciations
from orpheus_plugin.text.scripts import CLAUSE_MARKS, SENTENCE_MARKS, last_mark
from orpheus_plugin.text.spelling import spell

_CODE_FENCE = re.compile(r"```")
_TILDE_FENCE = re.compile(r"~~~\w*")
_RULE = re.compile(r"[-=*_|:~#+>•·▪]+")
_LINE_MARK = re.compile(r"(?:[-+*•·▪>#|]+|\$)")
_EMOTICON = re.compile(r"[:;=8][-'o^]?[()\[\]DPpOo|\\*]+|<+/?3+|[xX]D+|\^_*\^|[oO]_[oO]|-_+-")
_HEART = re.compile(r"<+3+")
_COUNTED = word_set(
    "years months weeks days hours minutes seconds kg km cm percent % of items people"
)
_KEY_LIST = "press presses pressing push hit dial enter type the or and then by with use key"
_BEFORE_KEY = frozenset(_KEY_LIST.split())
_BEFORE_MINUS = word_set(
    "is was are were of to at by reach reaches below above from be than about around equals "
    "ist sind war auf bei von est sont à de es son era è sono a di"
)
_WORD_EDGES = re.compile(r"([^\w.]*)(.*?)([^\w]*)$", re.DOTALL)
_KEYS = re.compile(r"([*#]\d[\d*#]*)([.,;:!?]*)")  # "dial *67"
_STROKE = re.compile(r"(?<=[^\W\d_])/(?=[^\W\d_])")  # of letters that no rule knows: "X/Y"
_SPACE_BEFORE = re.compile(r" +(?=[,.;:!?])")
_QUOTES = "\"'“”‘’`()[].,;:!?"


class Token(NamedTuple):
    """A written word; whether it begins a line, and whether that line begins a sentence although no
    mark comes before it."""

    written: str
    line_start: bool = False
    new_item: bool = False


class Normalizer:
    """Turns written words into spoken ones. Between calls it keeps whether it is inside a block of
    code."""

    def __init__(
        self,
        *,
        language: str = "en",
        spell_numbers: bool = True,
        pronunciations: Pronunciations | None = None,
    ) -> None:
        self._language = language_of(language)
        self._pronunciations = pronunciations or Pronunciations()
        self._spell_numbers = spell_numbers
        self._symbols = self._language.symbols
        spells = spell_numbers and self._language.spells
        # A currency next to a number is read by `spelling.py`.
        self._lone = {**self._symbols, **({} if spells else self._language.lone_currencies)}
        if self._language.number:
            self._lone["№"] = self._language.number
        self._periods = frozenset(self._language.periods.values())
        self._in_code = False

    def read(self, tokens: Sequence[Token]) -> list[str]:
        """One spoken form for each word; "" if there is nothing to speak."""
        spoken: list[str] = []
        last = -1  # index of the last word with a reading
        new_item = False
        for index, token in enumerate(tokens):
            said = self._lone_mark(tokens, index)
            if said is None:
                said = self._clean(token.written, token.line_start)
            new_item = new_item or token.new_item
            if said and not any(c.isalnum() or c in self._language.lone_currencies for c in said):
                mark = _first_mark(said)
                if mark and last >= 0:
                    spoken[last] = _with_mark(spoken[last], mark)
                said = ""
            elif said and last >= 0 and (new_item or said.startswith("(")):
                spoken[last] = _with_mark(spoken[last], "." if new_item else ",")
            if said:
                new_item = False
                last = len(spoken)
            spoken.append(said)
        spoken = [without_brackets(said, index == last) for index, said in enumerate(spoken)]
        told: frozenset[int] = frozenset()
        if self._pronunciations:
            told = self._pronounced(spoken)
        if self._spell_numbers:
            spoken = spell(spoken, self._language, told)
        return [_tidy(self._name_symbols(said)) for said in spoken]

    def _pronounced(self, spoken: list[str]) -> frozenset[int]:
        """Apply the table of pronunciations, phrases before words; returns the words that are
        final."""
        settled: set[int] = set()
        index = 0
        while index < len(spoken):
            for count in range(min(self._pronunciations.longest, len(spoken) - index), 0, -1):
                words = spoken[index : index + count]
                said = self._phrase(words)
                if said:
                    shares = said.split(" ")
                    cuts = [round(len(shares) * cut / count) for cut in range(count + 1)]
                    parts = [" ".join(shares[a:b]) for a, b in itertools.pairwise(cuts)]
                    spoken[index : index + count] = parts
                    settled.update(range(index, index + count))
                    index += count - 1
                    break
            index += 1
        return frozenset(settled)

    def _phrase(self, words: Sequence[str]) -> str | None:
        match = _WORD_EDGES.match(" ".join(words))
        if match is None or (len(words) > 1 and not all(words)):
            return None
        head, core, tail = match.groups()
        if said := self._pronunciations.spoken(core):
            return f"{head}{said}{tail}"
        for possessive in ("'s", "s'"):
            if core.endswith(possessive) and (
                said := self._pronunciations.spoken(core[: -len(possessive)])
            ):
                return f"{head}{said}{possessive}{tail}"
        if "-" in core:
            parts = [(self._pronunciations.spoken(part), part) for part in core.split("-")]
            if any(said for said, _ in parts):
                return head + "-".join(said or part for said, part in parts) + tail
        return None

    def _lone_mark(self, tokens: Sequence[Token], index: int) -> str | None:
        """The meaning of a mark on its own, from its neighbours: "3 * 4", "press #.", "Settings >
        Account", "is - 5"."""
        written = tokens[index].written
        dialled = _KEYS.fullmatch(written) if index and self._language.keys else None
        if dialled and tokens[index - 1].written.lower() in _BEFORE_KEY:
            return " ".join(self._language.keys.get(c, c) for c in dialled[1]) + dialled[2]
        mark = written if len(written) == 1 else written.strip(_QUOTES)
        if len(mark) > 2 or mark not in _LONE_MARKS or self._in_code:
            return None
        before = tokens[index - 1].written if index else ""
        after = tokens[index + 1].written if index + 1 < len(tokens) else ""
        if mark == "<3":
            if after.strip(",.;:!?") not in _COUNTED:
                return None
            return f"{self._symbols.get('<', '<')} {written[1:]}"
        if tokens[index].line_start:
            return None
        numbers = before[-1:].isdecimal() or (
            before[-1:] in "%°)²³\"'″" and any(c.isdecimal() for c in before)
        )
        if numbers and (after[:1].isdecimal() or (after[:1] in "$€£" and after[1:2].isdecimal())):
            if mark in "-–—":
                following = tokens[index + 2].written if index + 2 < len(tokens) else ""
                return self._language.minus if following == "=" else self._language.to
            if mark == "x" and after.startswith("10^"):
                return self._language.times
            if mark in self._language.operations:
                return self._language.operations[mark]
        if mark in "-–" and (
            after[:1].isdecimal() or (after[:1] in ".," and after[1:2].isdecimal())
        ):
            part = "." in after[1:-1] or "," in after[1:-1] or "°" in after
            minus = before.lower() in _BEFORE_MINUS or (part and before[-1:].isalpha())
            return self._language.minus if minus else None
        if mark == ">":
            path = all(sum(c.isalpha() for c in side) > 1 for side in (before, after))
            return "," if path else None
        if before.lower() in _BEFORE_KEY and mark in self._language.keys:
            return self._language.keys[mark] + written[written.index(mark) + 1 :].lstrip("\"'”’`)]")
        return None

    def _clean(self, written: str, line_start: bool) -> str:
        text = written
        if not self._in_code and self._is_plain(text if line_start else _END_MARK.sub("", text)):
            return text
        if len(_CODE_FENCE.findall(text)) % 2 or (line_start and _TILDE_FENCE.fullmatch(text)):
            self._in_code = not self._in_code
            return ""
        if self._in_code:
            return ""
        if text in _MARKS:
            return text
        if _SILENT.fullmatch(text):
            return ""
        if line_start and _LINE_MARK.fullmatch(text):
            return ""
        if _EMOTICON.fullmatch(text):
            return ""
        text = without_links(unescaped(text))
        text = say_addresses(text, self._language)
        text = without_formulas(text, self._language)
        if "/" in text:
            text = text.replace("+/-", "±")
        text = plain(text.replace("`", "")).strip()
        if not text:
            return ""
        text = _NO_CENTS.sub("", text)
        if "º" in text and self._language.code == "en":
            text = text.replace("º", "°")  # elsewhere it marks an ordinal
        bare = text.rstrip(",.;:!?")
        if bare in self._lone:
            return self._lone[bare] + text[len(bare) :]
        if text == "$$":
            return ""
        if _RULE.fullmatch(text) or text in ("–", "—"):
            return ":" if text == ":" else "," if text in ("-", "--", "–", "—", "|") else ""
        rate = "/" in text and (
            any(c.isdecimal() for c in text)
            or text.partition("/")[0].lower() in self._language.units
        )
        if "/" in text and not rate:  # "3 times/week", "200 req/s"
            counted, _, period = text.rpartition("/")
            bare = period.rstrip(".,;:!?")
            if bare in self._periods or (
                len(counted) > 2 and counted.islower() and self._language.periods.get(bare)
            ):
                name = self._language.periods.get(bare, bare)
                return f"{counted} {self._language.per} {name}{period[len(bare) :]}"
        return without_marks(text, rate=rate)

    def _is_plain(self, text: str) -> bool:
        """Whether it is read as it is written: most words are, and every rule costs time."""
        return text.isalnum() and (
            text.isascii()
            or (len(text) == 1 and text not in self._lone and is_normalized("NFKC", text))
        )

    def _name_symbols(self, text: str) -> str:
        if text.isascii() and text.replace(" ", "").isalpha():
            return text
        if "/" in text:
            text = _STROKE.sub(" ", text)
        return "".join(f" {self._symbols[c]} " if c in self._symbols else c for c in text)


_MARKS = frozenset(",.;:!?")
_SILENT = re.compile(r"""["'‘’“”«»‹›()\[\]{}]+""")
_END_MARK = re.compile(r"[,.!?、，。！？]\Z")
_NO_CENTS = re.compile(r"(?<=\d)[.,][-–—]{1,2}(?!\w)")  # 50,-
_LONE_MARKS = word_set("* # / > - – — x <3")


def _first_mark(text: str) -> str:
    return next((c for c in text if c in SENTENCE_MARKS + CLAUSE_MARKS), "")


def _with_mark(text: str, mark: str) -> str:
    return text if last_mark(text) else text + mark


def _tidy(text: str) -> str:
    if text.isalnum():
        return text
    if " " in text:
        text = _SPACE_BEFORE.sub("", " ".join(text.split()))
    return text if any(c.isalnum() for c in text) else ""
