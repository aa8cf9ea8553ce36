"""The input and output of a rule: the words around a place in a text, within a fixed distance, and
its spoken form."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from orpheus_plugin.text.languages import Language
from orpheus_plugin.text.scripts import CLOSERS, SENTENCE_MARKS

_NEAR = 64
_MARKS = "\"'()[]{}<>“”‘’«»,;:!?*_…"
_STOPPED = re.compile(r"[.,;:!?)\]]")


class Text:
    """The words of an utterance as one text, single spaces between them, in a language."""

    def __init__(self, text: str, language: Language) -> None:
        self.text = text
        self.language = language

    def before(self, place: int, count: int = 1) -> list[str]:
        """Up to `count` words before a place, the nearest last, in lower case without marks around
        them."""
        near = self.text[max(0, place - _NEAR) : place].split()
        return [word.strip(_MARKS).lower() for word in near[-count:]]

    def word_before(self, place: int) -> str:
        """The word before a place as it is written, without marks around it; "" at the
        beginning."""
        near = self.text[max(0, place - _NEAR) : place].rsplit(None, 1)
        return near[-1].strip(_MARKS) if near else ""

    def word_after(self, place: int) -> str:
        """The next word after a place as it is written, without marks around it; "" at the end."""
        near = self.text[place : place + _NEAR].split(None, 1)
        return near[0].strip(_MARKS) if near else ""

    def goes_on(self, place: int) -> bool:
        """Whether the next word follows directly, with no mark between."""
        return self.text[place : place + 1] == " " and bool(
            self.text[place + 1 : place + 2].strip()
        )

    def ends_sentence(self, place: int) -> bool:
        """Whether a full stop before this place ends a sentence: the text ends, or a capital letter
        follows that is not an acronym's."""
        after = self.word_after(place)
        return not after or (after[:1].isupper() and (len(after) == 1 or not after.isupper()))

    def counts_something(self, place: int) -> bool:
        """Whether a number that ends here counts something: a plain word follows that may be a
        noun."""
        if not self.goes_on(place):
            return False
        after = self.word_after(place).rstrip(".")
        return after.islower() and after not in self.language.little_words

    def begins(self, place: int) -> bool:
        """Whether a sentence begins here."""
        head = self.text[max(0, place - 8) : place].rstrip().rstrip(CLOSERS)
        return not head or head[-1] in SENTENCE_MARKS + ":"

    def is_code(self, place: int) -> tuple[bool, bool]:
        """Whether a number here is spoken digit by digit: (certainly, unless it counts
        something)."""
        language = self.language
        for word in reversed(self.before(place, 4)):
            bare = word.rstrip(".-")
            if word in language.codes or bare in language.codes:
                return True, True
            if (
                word in language.maybe_codes
                or bare in language.maybe_codes
                or bare.endswith("nummer")
            ):
                return False, True
            if word and word not in language.links and bare not in language.links:
                return False, False
        return False, False


Piece = tuple[int, str]
"""A place in the text, and what is spoken for it."""


class Reading(NamedTuple):
    """What is spoken for the text up to a place."""

    end: int
    pieces: list[Piece]


Rule = Callable[[Text, int], Reading | None]
"""Reads the text at one place; None if the rule does not apply there."""
