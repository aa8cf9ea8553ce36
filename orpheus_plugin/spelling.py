"""Numbers, money, times, dates, units and acronyms as words.

English is written out in full; other languages have their numbers, percentages and money spelled where `num2words`
knows the language. What is not recognised stays as it is: the speech models read plain digits too, only less surely.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from orpheus_plugin.numerals import number_words
from orpheus_plugin.spelling_english import spell_english


def spell(words: Sequence[str], language: str = "en") -> list[str]:
    """The same words, each with what is hard to read in it written out."""
    if language == "en":
        return spell_english(words)
    return [_spell_other(word, language) for word in words]


_POINT = {"fr": "virgule", "de": "Komma", "es": "coma", "it": "virgola", "ko": "점"}
_PER_CENT = {
    "fr": "pour cent",
    "de": "Prozent",
    "es": "por ciento",
    "it": "per cento",
    "ko": "퍼센트",
}
_MONEY_NAMES = {
    "fr": {"€": "euros", "$": "dollars", "£": "livres"},
    "de": {"€": "Euro", "$": "Dollar", "£": "Pfund"},
    "es": {"€": "euros", "$": "dólares", "£": "libras"},
    "it": {"€": "euro", "$": "dollari", "£": "sterline"},
    "ko": {"₩": "원", "$": "달러", "€": "유로"},
}
_OTHER = re.compile(r"([$€£₩])?(\d{1,3}(?:[.\u202f\u00a0]\d{3})+|\d+)(?:[,.](\d+))?\s?([%$€£₩])?")


def _spell_other(word: str, language: str) -> str:
    if not any(c.isdecimal() for c in word) or language not in _POINT:
        return word
    if language == "de" and re.fullmatch(r"\d{1,2}\.", word):
        return word  # an ordinal, whose ending hangs on its sentence

    def say(match: re.Match[str]) -> str:
        front, whole, fraction, behind = match.groups()
        said = number_words(int(re.sub(r"\D", "", whole)), language)
        if said is None or len(whole) > 15:
            return match[0]
        if fraction:
            decimals = [number_words(int(d), language) or d for d in fraction]
            said = f"{said} {_POINT[language]} {' '.join(decimals)}"
        mark = front or behind
        name = _PER_CENT[language] if mark == "%" else _MONEY_NAMES[language].get(mark or "", "")
        return f"{said} {name}".strip()

    return re.sub(r"(?<=[^\W\d])(?=\d)|(?<=\d)(?=[^\W\d])", "", _OTHER.sub(say, word))
