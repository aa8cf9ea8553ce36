"""Numbers, money, times, dates, units and acronyms as words.

The words of an utterance are read as one text, from left to right. At each figure the rules of
`figures.py` are tried; text that no rule reads is read piece by piece, letters and digits in order,
so that a number is never read wrongly and nothing is lost. Each word keeps its own part of the
spoken text.
"""

from __future__ import annotations

import itertools
import re
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache

from orpheus_plugin.text import english, figures, german
from orpheus_plugin.text.context import Reading, Rule, Text
from orpheus_plugin.text.languages import Language, language
from orpheus_plugin.text.letters import Letters
from orpheus_plugin.text.written_numbers import parse_number

_FIGURE = re.compile(r"[\d½¼¾]|\w\^")
_WORD = re.compile(r"\S+")
_OPENERS = "\"'([{¿¡“‘«"
_CLOSING = re.compile(r"[\"'”’»)\]}.,;:!?…]+(?!\S)")
_AREA_CODE = re.compile(r"\(\d+\) ?\d")
_STARTS = re.compile(r"[\d½¼¾+\-<>≤≥~≈±#№'.^]|[^\w\s]|[A-Zv]")
_GROUPED = re.compile(r"\d{1,3}(?:([.,'])\d{3})(?:\1\d{3})*(?!\d)(?![.,]\d)")
_DIGITS = re.compile(r"\d+")
_PIECE = re.compile(r"(?P<letters>[^\W\d_]+)|(?P<digits>\d+)|(?P<mark>.)", re.DOTALL)


def spell(
    words: Sequence[str], known: Language, settled: frozenset[int] = frozenset()
) -> list[str]:
    """The same words with numbers, units and acronyms written out in a language; the words in
    `settled` stay."""
    if not known.spells:
        return list(words)
    return _Speller(words, known, settled).spell()


def prepare(code: str) -> None:
    """Load what a language's first number needs (some 0.1 s), so that no turn waits for it.
    Blocking."""
    spell(["5", "$5"], language(code))


@lru_cache(maxsize=512)
def _rules(known: Language, mark: str) -> tuple[Rule, ...]:
    """The rules that may apply to a figure with this mark after its first digits; "^" for one that
    does not begin with a digit."""
    own = {"en": english.RULES, "de": german.RULES}.get(known.code, ())
    rules = own + figures.RULES
    return tuple(
        rule
        for rule, marks, leads in rules
        if (leads if mark == "^" else marks == "*" or mark in marks)
    )


@lru_cache(maxsize=16)
def _number_mark(known: Language) -> re.Pattern[str]:
    """An abbreviation of "number" that is written together with its number."""
    marks = "|".join(re.escape(mark) for mark in sorted(known.number_marks, key=len, reverse=True))
    return re.compile(rf"(?:{marks or '(?!)'})(?=\d)", re.IGNORECASE)


class _Speller:
    """Cost: each rule is one anchored match; a figure tries some twenty rules, a plain word
    none."""

    def __init__(self, words: Sequence[str], known: Language, settled: frozenset[int]) -> None:
        self._words = words
        self._settled: set[int] = set()  # where those words begin
        self._language = known
        joined = " ".join(word for word in words if word)
        self._joined = joined
        self._text = Text(joined, known)
        self._letters = Letters(self._text)
        self._starts: list[int] = []
        self._said: list[str] = []
        self._loose: set[int] = set()  # words of which only the marks are spoken so far
        self._glued = True  # the next piece follows without a space
        place = 0
        for index, word in enumerate(words):
            if word:
                if index in settled:
                    self._settled.add(place)
                self._starts.append(place)
                self._said.append("")
                place += len(word) + 1

    def spell(self) -> list[str]:
        done = 0
        for match in _WORD.finditer(self._joined):
            word, place = match[0], max(match.start(), done)
            if place >= match.end():
                continue
            if (
                self._settled
                and self._starts[bisect_right(self._starts, place) - 1] in self._settled
            ):
                self._say(place, self._joined[place : match.end()])
            elif (
                place == match.start()
                and not _FIGURE.search(word)
                and not self._leads(word, match.end())
            ):
                self._say(
                    place,
                    word
                    if len(word) > 3 and word.islower() and word.isalpha()
                    else self._unfigured(word, place),
                )
            else:
                done = self._figures(place, match.end())
        self._spread()
        said = iter(self._said)
        return [next(said) if word else "" for word in self._words]

    def _unfigured(self, word: str, place: int) -> str:
        bare = word.rstrip(",.;:!?")
        if name := self._language.lone_currencies.get(bare):
            return name + word[len(bare) :]
        following = self._joined[place + len(word) + 1 : place + len(word) + 2]
        if word.lower() in self._language.number_marks and following.isdecimal():
            return self._language.number
        return self._letters.read(word, place)

    def _spread(self) -> None:
        """Give words that are spoken with the word before them ("1 249 €") their share of it."""
        said, index = self._said, 0
        while index < len(said):
            end = index + 1
            while end < len(said) and (not said[end] or end in self._loose):
                end += 1
            parts, marks = said[index].split(" "), "".join(said[index + 1 : end])
            if end - index > 1:
                count = min(end - index, len(parts))
                cuts = [round(len(parts) * cut / count) for cut in range(count + 1)]
                shares = [" ".join(parts[a:b]) for a, b in itertools.pairwise(cuts)]
                shares[-1] += marks
                said[index:end] = shares + [""] * (end - index - count)
            index = end

    def _leads(self, word: str, end: int) -> bool:
        """Whether a word without figures begins an amount: "EUR 5", "No. 7"."""
        following = self._joined[end + 1 : end + 3]
        if not following or not (
            following[0].isdecimal() or (following[0] in "-+.," and following[1:].isdecimal())
        ):
            return False
        bare = word.lstrip(_OPENERS)
        return bare in self._language.currencies or (
            bare in ("No.", "Nos.") and self._language.code == "en"
        )

    def _figures(self, place: int, end: int) -> int:
        """Read from a place to the end of a word, and further if an amount continues; returns where
        it ended."""
        text = self._joined
        opening = True
        while place < end:
            if closing := _CLOSING.match(text, place):
                index = bisect_right(self._starts, place) - 1
                if not self._said[index]:
                    self._loose.add(index)
                self._say(place, closing[0], glue=True)
                return end
            if (
                opening
                and text[place] in _OPENERS
                and not (text[place] == "'" and text[place + 1 : place + 2].isdecimal())
            ):
                if not _AREA_CODE.match(text, place):
                    self._say(place, text[place])
                    self._glued = True
                place += 1
                continue
            if (
                opening
                and text[place].isalpha()
                and (mark := _number_mark(self._language).match(text, place))
            ):
                self._say(place, self._language.number)  # "n°1", "Nr.5"
                place = mark.end()
            opening = False
            reading = self._rule(place)
            if reading is None:
                place = self._piece(place)
                continue
            pieces = reading.pieces
            if " " in text[place : pieces[0][0]] and " " in pieces[0][1]:  # "$ 5"
                first, _, rest = pieces[0][1].partition(" ")
                pieces = [(place, first), (pieces[0][0], rest), *pieces[1:]]
            elif " " in text[place : pieces[0][0]] and len(pieces) > 1:
                pieces = [(place, pieces[0][1]), *pieces[1:]]
            for at, said in pieces:
                self._say(at, said)
            place = reading.end
            if place > end:
                following = re.compile(r"\S*").match(text, place)
                end = following.end() if following else place
        return place

    def _rule(self, place: int) -> Reading | None:
        text = self._joined
        if (place and text[place - 1].isalnum() and text[place] != "^") or not _STARTS.match(
            text, place
        ):
            return None
        match = _DIGITS.match(text, place)
        mark = text[match.end() : match.end() + 1] if match else "^"
        for rule in _rules(
            self._language, "a" if mark.isalpha() and mark not in "ºª" else mark or " "
        ):
            reading = rule(self._text, place)
            if reading is not None:
                return reading
        return None

    def _piece(self, place: int) -> int:
        """Read what no rule reads: a run of letters, a run of digits, or a mark."""
        text, language = self._joined, self._language
        match = _PIECE.match(text, place)
        assert match is not None
        piece, end = match[0], match.end()
        before, after = text[place - 1 : place], text[end : end + 1]
        if match["letters"]:
            # "5's" and "don't" are one word, "4x" is two.
            glue = before in ("'", "’") or (before.isdecimal() and (language.glued or piece == "s"))
            self._say(place, self._letters.acronym(piece) or piece, glue=glue)
        elif match["digits"]:
            coded = (
                (len(piece) > 3 and before.isalpha())
                or len(piece) > 15
                or (len(piece) > 2 and self._in_code(place))
            )
            grouped = _GROUPED.match(text, place)
            number = (
                parse_number(grouped[0], language) if grouped and not before.isalpha() else None
            )
            if grouped and number and not number.fraction and number.whole != piece:  # "5,000ish"
                self._say(place, language.integer(number.whole))
                return grouped.end()
            behind_point = before == "." and text[place - 2 : place - 1].isdecimal()
            self._say(
                place, language.told(piece) if coded or behind_point else language.integer(piece)
            )
        elif piece in "'’" and before.isalnum() and after.isalnum():
            self._say(place, piece, glue=True)
            self._glued = True
        elif piece in ".," and after.isdecimal():
            if (piece == "." and not before.isalpha()) or before.isdecimal():
                self._say(
                    place,
                    language.decimals.get(piece, "") or ",",
                    glue=piece not in language.decimals,
                )
        elif piece in ",;!?" or (piece == ":" and not after.isdecimal()):
            self._say(place, piece, glue=True)
        elif piece == "-" and after.isdecimal() and self._is_minus(place):
            self._say(place, language.minus)
        elif piece in "-/:.\"'()[]{}_·|\\’”“":
            pass
        elif said := language.symbols.get(piece):
            self._say(place, said)
        elif piece in language.currencies:
            self._say(place, language.currencies[piece][1])
        elif piece not in "#^*~":
            self._say(place, piece)
        return end

    def _in_code(self, place: int) -> bool:
        """Whether digits here are part of a code: "your code is ABC123"."""
        begins = self._starts[bisect_right(self._starts, place) - 1]
        return any(self._text.is_code(place)) or any(self._text.is_code(begins))

    def _is_minus(self, place: int) -> bool:
        """Whether a dash before a figure is a sign, or takes away: "(-5", "5-3=2"."""
        text = self._joined
        before = text[place - 1 : place]
        end = text.find(" ", place)
        equation = "=" in text[place : end if end >= 0 else None]
        variable = re.match(r"(?<![^\W_])[a-z]", text[place - 1 : place]) if place else None
        if variable and text[place - 2 : place - 1].isalnum():
            variable = None
        return (
            not before
            or before in " (\"'=<>~≈$€£"
            or (before.isdecimal() and equation)
            or variable is not None
        )

    def _say(self, place: int, said: str, *, glue: bool = False) -> None:
        """Add to the spoken form of the word at a place."""
        if not said:
            return
        index = bisect_right(self._starts, place) - 1
        so_far = self._said[index]
        space = "" if not so_far or glue or self._glued else " "
        self._said[index] = f"{so_far}{space}{said}"
        self._glued = False
