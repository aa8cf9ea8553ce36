"""Figures as German reads them: ordinals with a full stop, which have the ending of their case and
gender, and 90er."""

from __future__ import annotations

import re

from orpheus_plugin.text.context import Reading, Rule, Text
from orpheus_plugin.text.languages.base import word_set
from orpheus_plugin.text.languages.de import (
    AFTER_DATIVE,
    DETERMINERS,
    MONTH_NAMES,
    NEUTER,
    NUMBERED,
    STRONG,
    WEAK,
    is_feminine,
)
from orpheus_plugin.text.numerals import number_words

_ORDINAL = re.compile(r"(\d{1,3})\.(?:(?= [^\W\d])|\s?([-/])\s?(?=\d{1,3}\. [^\W\d])|$)")
_ER = re.compile(r"(\d{1,3}(?:\.\d{3})+|\d{1,4})er(n|s)?(?!\w)")
_BARE_RANGE = re.compile(r"(\d{1,2})\.-(\d{1,2})\.(?=[,;!?)]|\W*$)")
_PERCENT = re.compile(r"(\d{1,3}(?:,\d+)?)\s?%(ige[nmrs]?)(?!\w)")
_CHAIN = re.compile(r"(?:\d{1,3}\.(?:\s?[-/,]\s?| (?:und|oder|bis|sowie) ))+$")
_OPENERS = word_set(
    "Danach Dann Und Aber Ich Er Sie Es Wir Das Der Die Ein Eine Heute Jetzt"
)  # of the next sentence


def ordinals(text: Text, place: int) -> Reading | None:
    """ "am 3. Mai", "der 3. Platz", "vom 3. bis 5. Mai", "vom 3.-5.", "die 80er"."""
    if match := _ER.match(text.text, place):
        said = number_words(int(match[1].replace(".", "")), "de") or match[1]
        return Reading(match.end(), [(place, f"{said}er{match[2] or ''}")])
    if match := _BARE_RANGE.match(text.text, place):
        before = text.word_before(place).lower()
        if before in DETERMINERS or before in AFTER_DATIVE:
            said = [_said(int(day), before, text, place, "") for day in match.groups()]
            marked = text.text[match.end() : match.end() + 1].strip(")")  # no full stop before it
            end = match.end() if marked else match.end() - 1
            return Reading(end, [(place, f"{said[0]} bis"), (match.start(2), said[1])])
    match = _ORDINAL.match(text.text, place)
    if match is None:
        return None
    head = text.text[max(0, place - 48) : place]
    chain = _CHAIN.search(head)
    start = place - (len(chain[0]) if chain else 0)
    before = text.word_before(start).lower()
    after = text.word_after(match.end())
    if not after:  # "Heute ist der 3."
        if before not in ("der", "am", "dem", "zum", "vom", "beim", "im"):
            return None
        return Reading(match.end() - 1, [(place, _said(int(match[1]), before, text, start, ""))])
    noun = text.word_after(text.text.find(" ", match.end() + 1)) if match[2] else after
    known = bool(chain or match[2]) or noun.lower() in NUMBERED or noun.lower() in MONTH_NAMES
    if text.begins(start):
        determined = False  # "3. Platz", but not a list's number
    else:
        determined = before in DETERMINERS or (before in AFTER_DATIVE and noun[:1].isupper())
    if not known and (not determined or noun in _OPENERS):
        return None  # "Es waren 3. Danach"
    said = _said(int(match[1]), before, text, start, noun)
    if match[2]:
        said = f"{said} {'bis' if match[2] == '-' else 'und'}"
    return Reading(match.end(), [(place, said)])


def percentages(text: Text, place: int) -> Reading | None:
    """ "5%ige"."""
    match = _PERCENT.match(text.text, place)
    if match is None:
        return None
    whole, mark, part = match[1].partition(",")
    said = text.language.decimal(whole, mark, part)
    joint = " prozent" if part else "prozent"
    return Reading(match.end(), [(place, f"{said}{joint}{match[2]}")])


def _said(value: int, before: str, text: Text, place: int, noun: str) -> str:
    stem = number_words(value, "de", "ordinal") or str(value)
    earlier = text.before(place, 2)
    dative = before == "der" and len(earlier) == 2 and earlier[0] in AFTER_DATIVE
    if before in WEAK or dative:
        return stem + "n"
    if before in STRONG or is_feminine(noun):
        return stem
    return stem + ("s" if noun.lower() in NEUTER else "r")


RULES: tuple[tuple[Rule, str, bool], ...] = (
    (ordinals, ".a", False),
    (percentages, " ,%", False),
)
"""Rules that come before `figures.RULES`; see there."""
