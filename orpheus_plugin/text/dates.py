"""Dates and times of day, in every language; English names of days and months in short."""

from __future__ import annotations

import re

from orpheus_plugin.text.context import Piece, Reading, Text
from orpheus_plugin.text.languages.base import word_set
from orpheus_plugin.text.languages.en import DAY_NAMES, MONTH_NAMES, MONTHS

_END = r"(?!\w)(?![.,:/'’-]\d)"
_ISO_DATE = re.compile(rf"(\d{{4}})[-/.](\d{{1,2}})[-/.](\d{{1,2}}){_END}")
_DATE = re.compile(rf"(\d{{1,2}})([./-])(\d{{1,2}})\2(\d{{4}}|\d{{2}}){_END}")
_SHORT_DATE = re.compile(r"(\d{1,2})\.(\d{1,2})\.(?!\d)")
_DAY = re.compile(r"(\d{1,2})(\.|er|º|°)? (?=([^\W\d]{3,12})(\.?)(?: (\d{4})(?!\d))?)")
_CLOCK = re.compile(
    r"(\d{1,2})(?::|h|\.(?=\d\d ?(?:Uhr|h)\b))(\d{2})(?::(\d{2}))?(?! ?%)(?!\w)(?![.:]\d)"
    r"|(\d{1,2})h(?!\w)"
)
_POINTED_CLOCK = re.compile(r"(\d{1,2})\.([0-5]\d)()()(?!\w)(?![.:,/]\d| ?[%€$£])")
_DAYS = re.compile(r"([A-Z][a-z]{2,4})\.?-([A-Z][a-z]{2,4})\.?")
_BEFORE_DAYS = word_set("on by until till next last every this")


def date(text: Text, place: int) -> Reading | None:
    """2025-01-08, 08.01.2025, 1/8/2025, and 8.1. in languages with the day before the month."""
    language = text.language
    english = language.code == "en"
    year: str | None
    if match := _ISO_DATE.match(text.text, place):
        year, month, day = match.groups()
    elif match := _DATE.match(text.text, place):
        day, mark, month, year = match.groups()
        if (english and mark == "/") or int(month) > 12:
            day, month = month, day
        if int(month) > 12:
            day, month = month, day
    elif not english and language.months and (match := _SHORT_DATE.match(text.text, place)):
        (day, month), year = match.groups(), None
    else:
        return None
    if not (1 <= int(month) <= 12 and 1 <= int(day) <= 31):
        return None
    said = language.date(int(day), int(month), year, text.word_before(place))
    return Reading(match.end(), [(place, said)]) if said else None


def day(text: Text, place: int) -> Reading | None:
    """A day before the name of its month: "3. März 2024", "1er janvier"; English has its own
    rule."""
    language = text.language
    match = _DAY.match(text.text, place)
    if match is None or language.code == "en" or not 1 <= int(match[1]) <= 31:
        return None
    month = language.month_names.get(match[3].lower())
    if month is None or (language.code == "de" and match[2] != "."):
        return None
    said = language.date(int(match[1]), month, match[5], text.word_before(place)).split(" ")
    names = language.months[month - 1].split(" ")
    at = said.index(names[0])
    pieces = [(place, " ".join(said[:at])), (match.end(), said[at])]
    if match[5]:
        return Reading(match.end(5), [*pieces, (match.start(5), " ".join(said[at + 1 :]))])
    return Reading(match.end(3) + len(match[4]), pieces)


def clock(text: Text, place: int) -> Reading | None:
    """A time of day, and from one to another: 14:30, 9h, 14:00-16:00 Uhr."""
    language = text.language
    found = _times(text, place)
    if found is None:
        return None
    end, parts = found
    named = re.compile(r" ?(?:Uhr|h)(?!\w)").match(text.text, end)
    pieces: list[Piece] = []
    for index, (at, hour, minute) in enumerate(parts):
        said = language.clock(hour, minute, index == len(parts) - 1)
        if not said:
            return None
        if index < len(parts) - 1 and language.code == "de" and not minute:
            said = said.removesuffix(" Uhr")
        pieces += [(at, said)] if not index else [(at, f"{language.to} {said}")]
    return Reading(named.end() if named else end, pieces)


def _times(text: Text, place: int) -> tuple[int, list[tuple[int, int, int]]] | None:
    parts: list[tuple[int, int, int]] = []
    end = place
    while len(parts) < 2:
        match = _CLOCK.match(text.text, end)
        if match is None:
            match = _POINTED_CLOCK.match(text.text, end)
            if match and text.word_before(end).lower() not in text.language.hours:
                match = None
        if match is None:
            break
        hour, minute = int(match[1] or match[4]), int(match[2] or 0)
        if hour > 24 or minute > 59 or match[3]:
            return None
        parts.append((match.start(), hour, minute))
        end = match.end()
        if text.text[end : end + 1] != "-" or not _CLOCK.match(text.text, end + 1):
            break
        end += 1
    return (end, parts) if parts else None


def calendar_word(text: Text, core: str, place: int, *, dotted: bool) -> str | None:
    """A short month or weekday in full, next to another part of a date or time: "Nov. 28", "Tues.
    Jan. 5th", "Mon-Fri", "Sat 9-5". `dotted`: a full stop follows that may belong to it."""
    if days := _DAYS.fullmatch(core):
        first, last = (DAY_NAMES.get(day.lower()) for day in days.groups())
        return f"{first} to {last}" if first and last else None
    if not (core.istitle() or core.isupper()) or not 3 <= len(core) <= 5:
        return None
    before = text.word_before(place)
    after = text.word_after(place + len(core) + dotted)
    if day := DAY_NAMES.get(core.lower()):
        named = before.lower() in _BEFORE_DAYS
        if dotted:
            dated = after.rstrip(".").lower() in MONTH_NAMES
            if dated or not text.ends_sentence(place + len(core) + 1):
                return day
            return f"{day}." if named else None
        known = after[:1].isdecimal() or (named and (not after or after.islower()))
        return day if known and core.istitle() else None
    month = MONTH_NAMES.get(core.lower())
    if month is None or not (
        _is_day(before) or _is_day(after) or re.fullmatch(r"(?:19|20)\d\d", after)
    ):
        return None
    return MONTHS[month - 1]


def _is_day(word: str) -> bool:
    match = re.fullmatch(r"(\d{1,2})(?:st|nd|rd|th)?(?:-\d{1,2})?\.?", word)
    return match is not None and 1 <= int(match[1]) <= 31
