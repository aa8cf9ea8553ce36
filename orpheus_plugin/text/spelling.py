"""Numbers, money, times, dates, units and acronyms as words.

English is written out in full; other languages have their numbers, percentages and money spelled where `num2words`
knows the language. What is not recognised stays as it is: the speech models read plain digits too, only less surely.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from orpheus_plugin.text.numerals import number_words
from orpheus_plugin.text.spelling_english import spell_english


def spell(words: Sequence[str], language: str = "en") -> list[str]:
    """The same words, each with what is hard to read in it written out."""
    if language == "en":
        return spell_english(words)
    return [_spell_other(word, language) for word in _joined(words, language)]


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
_HOURS = {"fr": "heures", "de": "Uhr", "es": "y", "it": "e"}  # between hours and minutes
_NUMBER = (
    r"([$€£₩])?(\d{{1,3}}(?:[{thousands}\u202f\u00a0]\d{{3}})+|\d+)(?:[{point}](\d+))?\s?([%$€£₩])?"
)
_OTHER = re.compile(_NUMBER.format(thousands=".", point=",."))
_KOREAN = re.compile(_NUMBER.format(thousands=",", point="."))
_TIME = re.compile(r"(\d{1,2})[:h](\d{2})(?!\d)")
_GROUPS = re.compile(r"[($€£-]*\d{1,3}(?:\u202f\d{3})*")
_FRENCH_ORDINAL = re.compile(r"(\d{1,4})(er|re|ère|ème|e)\b")


def _joined(words: Sequence[str], language: str) -> list[str]:
    """What is one number over several words goes into the last of them: "1 249,99" in French, "14:30 Uhr" in German."""
    out = list(words)
    for index in range(len(out) - 1):
        word, after = out[index], out[index + 1]
        if language == "fr" and _GROUPS.fullmatch(word) and re.match(r"\d{3}(?!\d)", after):
            out[index : index + 2] = "", f"{word}\u202f{after}"
        elif language == "de" and _TIME.fullmatch(word) and re.fullmatch(r"Uhr\W*", after):
            out[index : index + 2] = "", word + after[3:]
    return out


def _spell_other(word: str, language: str) -> str:
    if not any(c.isdecimal() for c in word) or language not in _POINT:
        return word
    if language == "de" and re.fullmatch(r"\d{1,2}\.", word):
        return word  # an ordinal, whose ending hangs on its sentence
    if language == "fr":
        word = re.sub(r"(?<=\d)h(?!\w)", "h00", word)  # 9h
    if language in _HOURS and (match := _TIME.search(word)):
        return _clock(word, match, language)
    if language == "fr":
        word = _FRENCH_ORDINAL.sub(_ordinal, word)

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

    return re.sub(
        r"(?<=[^\W\d])(?=\d)|(?<=\d)(?=[^\W\d])",
        "",
        (_KOREAN if language == "ko" else _OTHER).sub(say, word),
    )


def _clock(word: str, match: re.Match[str], language: str) -> str:
    hours = number_words(int(match[1]), language)
    minutes = number_words(int(match[2]), language)
    if hours is None or minutes is None or int(match[1]) > 24 or int(match[2]) > 59:
        return word
    between = _HOURS[language]
    if language == "de":
        hours = "ein" if int(match[1]) == 1 else hours
    elif language == "fr":
        hours, between = ("une", "heure") if int(match[1]) == 1 else (hours, between)
    if not int(match[2]):
        minutes, between = "", between if language in ("de", "fr") else ""
    said = " ".join(part for part in (hours, between, minutes) if part)
    return f"{word[: match.start()]}{said}{word[match.end() :]}"


def _ordinal(match: re.Match[str]) -> str:
    if match[1] == "1":
        return "première" if match[2] in ("re", "ère") else "premier"
    return number_words(int(match[1]), "fr", "ordinal") or match[0]
