"""Figures as English reads them: years, decades, days, times with am and pm, named fractions,
heights, ZIP codes."""

from __future__ import annotations

import re

from orpheus_plugin.text.amounts import amounts
from orpheus_plugin.text.context import Piece, Reading, Rule, Text
from orpheus_plugin.text.figures import ENDS
from orpheus_plugin.text.languages.base import word_set
from orpheus_plugin.text.languages.en import MONTH_NAMES, STATES, year
from orpheus_plugin.text.numerals import number_words

_YEAR_BEFORE = word_set(
    "between in since of year by until till from before after during circa ca c around was "
    "is early late mid the spring summer autumn fall winter born died copyright"
    " q1 q2 q3 q4 h1 h2 fy"
)
_YEAR = re.compile(r"((?:1[1-9]|20)\d\d)(?:-((?:1[1-9]|20)\d\d|\d\d))?(?!\w)(?![.,:/'-]\d)")
_SEASON = re.compile(r"((?:19|20)\d\d)/(\d\d)(?!\w)(?![./-]\d)")  # 2019/20
_DECADE = re.compile(r"(?:((?:1[1-9]|20)\d0)|'?(\d0))'?s(?!\w)")
_PLURAL = re.compile(r"([$€£])?(\d{1,3}(?:,\d{3})+|\d+0)s(?!\w)")  # 10,000s of them
_BESIDE_DECADE = re.compile(r"0s(?:-| and | or | to )$")
_SHORT_DECADES = word_set("the early mid late and or to his her their my your our")
_DAY = re.compile(r"(\d{1,2})(?:st|nd|rd|th)?(?:-(\d{1,2})(?:st|nd|rd|th)?)?(?!\w)(?![.,:/'-]\d)")
_MONTH_AND_DAY = re.compile(r"(\d{1,2})/(\d{1,2})(?!\w)(?![./-]\d)")
_BEFORE_DATES = word_set("by until till before after since from through starting ending dated")
_COMMON_PARTS = (2, 3, 4, 5, 8, 10, 16)
_TIME = re.compile(
    r"(\d{1,2})(?::(\d{2})(?::(\d{2}))?)?(?:\s?([ap])(?:m(?!\w)|\.\s?m\.?))?(?!\w)(?![:./]\d)",
    re.IGNORECASE,
)
_MIXED = re.compile(r"(?:(\d+)[ -])?(\d{1,3})\s?/\s?(\d{1,3})(?:rds?|ths?|nds?)?(?!\w)(?![./-]\d)")
_VULGAR = {"½": (1, 2), "¼": (1, 4), "¾": (3, 4)}
_WITH_VULGAR = re.compile(r"(\d*)\s?([½¼¾])")
_PARTS = {2: ("half", "halves"), 4: ("quarter", "quarters")}
_IDIOM = re.compile(r"(?:24/7/365|\d\d?[-/]\d\d?)(?!\w)(?![./-]\d)")
_IDIOMS = {
    "24/7/365": "twenty four seven, three sixty five",
    "24-7": "twenty four seven",
    "24/7": "twenty four seven",
    "50/50": "fifty fifty",
    "50-50": "fifty fifty",
    "9/11": "nine eleven",
    "20/20": "twenty twenty",
}
_HEIGHT = re.compile(
    r"(\d)'\s?(\d{1,2})(?:\"|''|(?!\w))|(\d{1,2})'(?= (?:tall|long|wide|high|deep)\b)"
)
_FEET_AND_INCHES = re.compile(
    r"(\d{1,2})\s?(?:ft\.?|feet|foot)\s(\d{1,2})\s?in(?:\.|ch(?:es)?)?(?!\w)"
)
_FEET_BY_FEET = re.compile(r"(\d{1,3})'\s?(?:x|by)\s?(\d{1,3})'(?!\w)")
_DURATION = re.compile(r"\d+\s?(?:d|hrs?|h|mins?|m)(?:\s?\d+\s?(?:hrs?|h|mins?|m|secs?|s))+(?!\w)")
_SPAN = re.compile(r"(\d+)\s?([a-z])[a-z]*")
_SPANS = {"d": "day", "h": "hour", "m": "minute", "s": "second"}
_INCHES = re.compile(r"(\d+(?:\.\d+)?)\"(?!\w)")
_NUMBERED = re.compile(r"[Nn]os?\. ?(?=\d)")
_STATE_ZIP = re.compile(r"(\d{5})(?:-(\d{4}))?(?![\w-])")
_MONTH_DAY_YEAR = re.compile(r"\d{1,2}(?:st|nd|rd|th)?$")


def _cardinal(digits: str) -> str:
    return number_words(int(digits), "en") or digits


def _ordinal(value: int) -> str:
    return number_words(value, "en", "ordinal") or str(value)


def zip_code(text: Text, place: int) -> Reading | None:
    """ZIP codes: after a state ("CA 90210"), or with four more digits anywhere ("94105-1234")."""
    match = _STATE_ZIP.match(text.text, place)
    if match is None or not (match[2] or text.word_before(place) in STATES):
        return None
    said = ", ".join(text.language.told(part) for part in match.groups() if part)
    return Reading(match.end(), [(place, said)])


def times(text: Text, place: int) -> Reading | None:
    """5:30, 7 a.m., and ranges: 6-8pm, 9:00-17:00."""
    match = _TIME.match(text.text, place)
    parts: list[re.Match[str]] = []
    while match is not None and len(parts) < 2:
        parts.append(match)
        dash = text.text[match.end() : match.end() + 1] == "-"
        match = _TIME.match(text.text, match.end() + 1) if dash else None
    if not parts or any(int(part[1]) > 24 or int(part[2] or 0) > 59 for part in parts):
        return None
    last = parts[-1]
    if not any(part[2] or part[4] for part in parts) or any(
        part[4] and int(part[1]) > 12 for part in parts
    ):
        return None
    if len(parts) == 2 and not last[2] and not last[4] and not 1 <= int(last[1]) <= 12:
        return None
    apart = text.word_after(last.end()).lower().replace(".", "") in ("am", "pm")
    pieces: list[Piece] = []
    for index, part in enumerate(parts):
        half = part[4] or last[4]
        said = text.language.clock(
            int(part[1]), int(part[2] or 0), bool(half) or apart or (not part[2])
        )
        if part[3]:
            said += f" and {_cardinal(part[3])} seconds"
        pieces.append((part.start(), f"to {said}" if index else said))
        if part[4]:
            pieces.append((part.start(4), f"{part[4].upper()} M"))
    end = last.end()
    if last[4] and text.text[end - 1] == "." and text.ends_sentence(end):
        end -= 1  # the full stop of "p.m." ends the sentence, too
    return Reading(end, pieces)


def days(text: Text, place: int) -> Reading | None:
    """A day of a month, or from one to another: "March 3", "3-5 March"; "the 5th of May" is an
    ordinal anyway."""
    match = _DAY.match(text.text, place)
    if match is None or not all(1 <= int(day) <= 31 for day in match.groups() if day):
        return None
    said = " to ".join(_ordinal(int(day)) for day in match.groups() if day)
    before = text.word_before(place).rstrip(".")
    if before.lower() in MONTH_NAMES and before[:1].isupper():
        return Reading(match.end(), [(place, said)])
    after = text.word_after(match.end()).rstrip(".")
    if after.lower() in MONTH_NAMES and after[:1].isupper() and text.goes_on(match.end()):
        article = "" if before.lower() == "the" else "the "
        return Reading(match.end(), [(place, f"{article}{said} of")])
    return None


def month_and_day(text: Text, place: int) -> Reading | None:
    """3/14 after "on" or "due", and after "by" and others if it is not a common fraction: "by
    3/14", but "by 3/4"."""
    match = _MONTH_AND_DAY.match(text.text, place)
    if match is None:
        return None
    month, day = int(match[1]), int(match[2])
    before, after = text.word_before(place).lower(), text.word_after(match.end())
    fraction = day in _COMMON_PARTS and month < day
    if match[0] in _IDIOMS or not (
        before in ("on", "due") or (before in _BEFORE_DATES and not fraction)
    ):
        return None
    if not (1 <= month <= 12 and 1 <= day <= 31) or after == "of":
        return None
    if text.counts_something(match.end()):
        return None
    return Reading(match.end(), [(place, text.language.date(day, month, None, ""))])


def decades(text: Text, place: int) -> Reading | None:
    """1990s, the 80s, '90s."""
    match = _DECADE.match(text.text, place)
    if match is None:
        return None
    before = text.word_before(place).lower().rstrip("-")
    marked = match[0][0] == "'" or match[0].endswith("'s")
    beside = _BESIDE_DECADE.search(text.text, max(0, place - 9), place) or re.match(
        r" (?:and|or) \d0s(?!\w)", text.text[match.end() :][:9]
    )
    if match[2] and not marked and not beside and before not in _SHORT_DECADES:
        return None
    said = year(match[1]) if match[1] else _cardinal(match[2])
    return Reading(match.end(), [(place, said[:-1] + "ies" if said.endswith("y") else f"{said}s")])


def plurals(text: Text, place: int) -> Reading | None:
    """10,000s of people, $100s of them."""
    match = _PLURAL.match(text.text, place)
    if match is None or not ("," in match[2] or text.word_after(match.end()) == "of"):
        return None
    said = f"{text.language.integer(match[2].replace(',', ''))}s".removeprefix("one ")
    if match[1]:
        said += f" of {text.language.currencies[match[1]][1]}"
    return Reading(match.end(), [(place, said)])


def years(text: Text, place: int) -> Reading | None:
    """Four digits that are a year, and ranges of years."""
    if season := _SEASON.match(text.text, place):
        return Reading(season.end(), [(place, f"{year(season[1])} {_cardinal(season[2])}")])
    match = _YEAR.match(text.text, place)
    if match is None or (match[2] and len(match[2]) == 2 and int(match[2]) <= int(match[1][2:])):
        return None
    before = text.word_before(place)
    pair = text.before(place, 2)  # "from 1990 to 1995"
    paired = (
        len(pair) == 2
        and pair[1] in ("and", "to", "or", "through")
        and re.fullmatch(r"(?:1[1-9]|20)\d\d", pair[0])
    )
    dated = (
        bool(paired) or before.lower() in _YEAR_BEFORE or before.rstrip(".").lower() in MONTH_NAMES
    )
    day = (
        _MONTH_DAY_YEAR.fullmatch(before) is not None and 1 <= int(re.sub(r"\D", "", before)) <= 31
    )
    recent = match[1][:2] in ("19", "20")
    counted = text.counts_something(match.end())
    bracketed = text.text[place - 1 : place] in ("(", "[") and text.text[
        match.end() : match.end() + 1
    ] in (")", "]")
    if match[2]:
        known = (
            dated or bracketed or (recent and (len(match[2]) == 2 or match[2][:2] in ("19", "20")))
        ) and not counted
        if not known:
            return None
        said = year(match[2]) if len(match[2]) == 4 else _cardinal(match[2])
        return Reading(match.end(), [(place, f"{year(match[1])} to {said}")])
    alone = recent and not before and not counted
    dated = dated and not (counted and before.lower() not in ("in", "since", "year"))
    if dated or day or alone or (bracketed and not match[1].endswith("00")):
        return Reading(match.end(), [(place, year(match[1]))])
    return None


def fractions(text: Text, place: int) -> Reading | None:
    """1/2, 3/4, 1 1/2, 1½, 24/7."""
    if (idiom := _IDIOM.match(text.text, place)) and idiom[0] in _IDIOMS:
        return Reading(idiom.end(), [(place, _IDIOMS[idiom[0]])])
    if match := _WITH_VULGAR.match(text.text, place):
        top, bottom = _VULGAR[match[2]]
        whole = match[1]
    elif match := _MIXED.match(text.text, place):
        whole, top, bottom = match[1] or "", int(match[2]), int(match[3])
    else:
        return None
    if not 2 <= bottom <= 20 or top >= bottom:
        if whole:
            return None
        link = "out of" if top == bottom else "over"
        return Reading(
            match.end(), [(place, f"{_cardinal(str(top))} {link} {_cardinal(str(bottom))}")]
        )
    one, many = _PARTS.get(bottom, (_ordinal(bottom), f"{_ordinal(bottom)}s"))
    pieces = [(place, f"{_cardinal(str(top))} {one if top == 1 else many}")]
    if whole:
        part = f"{_article(one)} {one}" if top == 1 else pieces[0][1]
        pieces = [(place, _cardinal(whole)), (match.start(2), f"and {part}")]
    end = match.end()
    if unit := amounts(text.language).unit(text.text, end):
        part = unit.one if top == 1 else f"of {_article(unit.one)} {unit.one}"
        pieces.append((unit.place, unit.names[1] if whole else part))
        end = unit.end
    elif text.text[end : end + 1] == '"' and not _in_quotation(text, place):
        pieces.append((end, "inches" if whole and not text.counts_something(end + 1) else "inch"))
        end += 1
    return Reading(end, pieces)


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


def _in_quotation(text: Text, place: int) -> bool:
    return text.text.count('"', max(0, place - 300), place) % 2 == 1


def heights(text: Text, place: int) -> Reading | None:
    """5'10" and, if it does not end a quotation, 12"."""
    if match := _HEIGHT.match(text.text, place):
        if match[3]:
            return Reading(
                match.end(),
                [(place, f"{_cardinal(match[3])} {'foot' if match[3] == '1' else 'feet'}")],
            )
        return Reading(match.end(), [(place, f"{_cardinal(match[1])} foot {_cardinal(match[2])}")])
    if match := _FEET_AND_INCHES.match(text.text, place):
        feet = f"{_cardinal(match[1])} {'foot' if match[1] == '1' else 'feet'}"
        inches = f"{_cardinal(match[2])} {'inch' if match[2] == '1' else 'inches'}"
        return Reading(match.end(), [(place, feet), (match.start(2), inches)])
    if match := _FEET_BY_FEET.match(text.text, place):
        by = f"by {_cardinal(match[2])} feet"
        return Reading(match.end(), [(place, _cardinal(match[1])), (match.start(2), by)])
    match = _INCHES.match(text.text, place)
    if match is None or _in_quotation(text, place):
        return None
    whole, mark, part = match[1].partition(".")
    said = text.language.decimal(whole, mark, part)
    return Reading(
        match.end(),
        [
            (
                place,
                f"{said}"
                f" {'inch' if match[1] == '1' or text.counts_something(match.end()) else 'inches'}",
            )
        ],
    )


def durations(text: Text, place: int) -> Reading | None:
    """1h 30m, 2m30s."""
    match = _DURATION.match(text.text, place)
    if match is None:
        return None
    pieces: list[Piece] = []
    for span in _SPAN.finditer(match[0]):
        name = _SPANS[span[2]]
        said = f"{text.language.integer(span[1])} {name}{'' if span[1] == '1' else 's'}"
        pieces.append((place + span.start(), said))
    return Reading(match.end(), pieces)


def numbered(text: Text, place: int) -> Reading | None:
    """No. 5."""
    match = _NUMBERED.match(text.text, place)
    return Reading(match.end(), [(place, "number")]) if match else None


RULES: tuple[tuple[Rule, str, bool], ...] = (
    (numbered, "-", True),
    (zip_code, ENDS + "-", False),
    (decades, "'a", True),
    (plurals, ",a", True),
    (days, ENDS + "a-", False),
    (month_and_day, "/", False),
    (fractions, " /-½¼¾", True),
    (durations, " a", False),
    (times, ": a-", False),
    (heights, " a'\".", False),
    (years, ENDS + "-/", False),
)
"""Rules that come before `figures.RULES`; see there."""
