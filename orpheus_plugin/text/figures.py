"""Figures that are not amounts: codes, telephone numbers, ordinals, fractions, powers, versions;
and the order of all rules.

Each rule reads the text at one place and returns how far it reads and what is spoken, or None. The
first rule that applies is used; text that no rule reads is read by `spelling.py` piece by piece,
digits and words in order.
"""

from __future__ import annotations

import re

from orpheus_plugin.text.amounts import amounts
from orpheus_plugin.text.context import Piece, Reading, Rule, Text
from orpheus_plugin.text.dates import clock, date, day
from orpheus_plugin.text.numerals import number_words
from orpheus_plugin.text.written_numbers import parse_number

_END = r"(?!\w)(?![.,:/'’-]\d)"
_DIGIT_GROUPS = re.compile(r"\d+(?:[ .-]\d+)*(?!\w)")
_PHONE = re.compile(r"(?P<plus>\+)?\(?\d{1,5}\)?(?:[ ./-]{1,2}\(?\d{1,8}\)?){1,6}(?!\w)(?![.,]\d)")
_AMERICAN = re.compile(r"(?:1[ .-])?\(?\d{3}\)?[ .-]?\d{3}[ .-]\d{4}(?![\w-])|\d{3}-\d{4}(?![\w-])")
_CARD = re.compile(r"\d{4}(?:[ -]\d{4}){2,4}(?![\w-])|\d(?:-\d){2,}(?![\w-])|\+\d{7,15}(?!\w)")
_VANITY = re.compile(r"1[ -]\d{3}-(?=[A-Z]{2})")  # 1-800-FLOWERS, 1-800-GO-FEDEX
_LONG_CODE = re.compile(rf"\d+(?:-\d+){{2,}}{_END}")
_GROUPS = re.compile(r"\d+")
_ORDINAL = re.compile(
    r"(\d{1,3}(?:,\d{3})+|\d{1,6})"
    r"(st|nd|rd|th|\.?ers?|re|ère|ème|nde?|e|è|\.?[ºª]|°(?= [a-z]))(?!\w)",
    re.IGNORECASE,
)
_FRACTION = re.compile(rf"(\d+)([.,]\d+)?\s?/\s?(\d+){_END}")
_VULGAR = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4"}
_WITH_VULGAR = re.compile(rf"(\d*)\s?([{''.join(_VULGAR)}])")
_POWER = re.compile(r"\^\s?[{(]?(-?)(\d+(?:\.\d+)?|[^\W\d_]+)[)}]?")
_SCIENTIFIC = re.compile(r"(\d+(?:[.,]\d+)?)[eE]([-+]?)(\d{1,3})(?!\w)")
_VERSION = re.compile(
    r"(?:[vV]\.?)?(\d+(?:\.\d+){2,})(?!\w)(?!\.\d)|[vV](\d+(?:\.\d+)?)(?!\w)(?![.,]\d)"
)
_SIZE = re.compile(r"\d[\d.,]*\s?x\s?(?=\d)")
_SCORE = re.compile(rf"(\d{{1,3}}):(\d{{1,3}}){_END}")
_GOES_ON = re.compile(r"-\d|\s?=")  # behind a range: a telephone number, an equation
_HASH = re.compile(r"(?:#|№ ?)(\d+)(?!\w)(?![.,]\d)")


def code(text: Text, place: int) -> Reading | None:
    """Digit by digit after a word that asks for it: "your code is 4930", "PIN 0042", "call 911"."""
    match = _DIGIT_GROUPS.match(text.text, place)
    if match is None:
        return None
    sure, perhaps = text.is_code(place)
    groups = list(_GROUPS.finditer(match[0]))
    first = groups[0][0]
    if perhaps and not sure:
        alone = len(groups) == 1
        if alone and (
            len(first) < 3
            or text.counts_something(match.end())
            or (first.endswith("00") and len(first) > 3)
        ):
            return None
        sure = not alone or len(first) >= 3
    elif not sure and (
        match[0] in text.language.emergency
        or text.language.dials.intersection(_called(text, place))
    ):
        sure = len(groups) == 1 and 3 <= len(first) <= 6 and not text.counts_something(match.end())
    if not sure or (len(groups) == 1 and len(first) < 3 and first[0] != "0") or "." in match[0]:
        return None
    return Reading(match.end(), _told(text, match[0], place))


def _called(text: Text, place: int) -> list[str]:
    """What is done with a number: "call 311 or 211", "wählen Sie die 110", "text STOP to
    741741"."""
    words = text.before(place, 4)
    linked = text.language.dial_links
    while len(words) > 1 and (words[-1] in linked or words[-1].isdecimal()):
        if words[-1] == "to":
            return words
        words.pop()
    return words[-1:]


def phone(text: Text, place: int) -> Reading | None:
    """A telephone or card number: with its country, with a leading zero, or grouped as in
    America."""
    match = (
        _AMERICAN.match(text.text, place)
        or _LONG_CODE.match(text.text, place)
        or _PHONE.match(text.text, place)
    )
    grouped = text.language.phones and re.compile(rf"(?:{text.language.phones})(?![\w.,]\d)").match(
        text.text, place
    )
    if grouped:
        return Reading(grouped.end(), _told(text, grouped[0], place))
    if told := _VANITY.match(text.text, place) or _CARD.match(text.text, place):
        return Reading(told.end(), _told(text, told[0], place))
    if match is None:
        return None
    digits = sum(c.isdecimal() for c in match[0])
    known = (
        match.re is not _PHONE
        or match["plus"]
        or (match[0].lstrip("(")[0] == "0" and match[0].lstrip("(")[1:2] != ".")
    )
    if not known or not 6 <= digits <= 20:
        return None
    return Reading(match.end(), _told(text, match[0], place))


def _told(text: Text, written: str, place: int) -> list[Piece]:
    """Groups of digits one by one, with a pause between groups."""
    pieces: list[Piece] = []
    groups = list(_GROUPS.finditer(written))
    for index, group in enumerate(groups):
        said = text.language.told(group[0])
        if written[group.start() - 1 : group.start()] == "+":
            said = f"{text.language.plus} {said}"
        closed = written[group.end() : group.end() + 1] == ")"
        pieces.append(
            (place + group.start(), said + ("," if closed or index < len(groups) - 1 else ""))
        )
    return pieces


def ordinal(text: Text, place: int) -> Reading | None:
    """1st, 1er, 2e, 1º; German has its own rule."""
    language = text.language
    match = _ORDINAL.match(text.text, place)
    if match is None:
        return None
    said = language.ordinal(int(match[1].replace(",", "")), match[2].lower().lstrip("."))
    if not said:
        return None
    if language.code == "es" and said in ("primero", "tercero") and text.goes_on(match.end()):
        said = said[:-1]  # "primer piso"
    if text.text[match.end() : match.end() + 1] == "-":  # 1st-3rd
        last = ordinal(text, match.end() + 1)
        if last is not None:
            return Reading(last.end, [(place, f"{said} {language.to}"), *last.pieces])
    return Reading(match.end(), [(place, said)])


def fraction(text: Text, place: int) -> Reading | None:
    """Two numbers with a stroke between them, and ½; English names more of the small ones."""
    language = text.language
    if match := _WITH_VULGAR.match(text.text, place):
        part = language.parts.get(_VULGAR[match[2]], "")
        if not part:
            return None
        whole = language.integer(match[1]) if match[1] else ""
        unit = amounts(language).unit(text.text, match.end())
        noun = unit.names[0] if unit else text.word_after(match.end())
        if not unit and not (text.goes_on(match.end()) and noun not in language.little_words):
            noun = ""
        said = language.mixed(whole, part, noun, text.word_before(place))
        if unit is None:
            return Reading(match.end(), [(place, said)])
        name = unit.names[1] if whole else unit.one
        if not whole and match[2] != "½":  # "un quart d'heure"
            name = amounts(language).link(part, name)
        return Reading(unit.end, [(place, said), (unit.place, name)])
    match = _FRACTION.match(text.text, place)
    if match is None:
        return None
    if match[0] in language.parts:
        return Reading(match.end(), [(place, language.parts[match[0]])])
    mark = (match[2] or "")[:1]
    top = language.decimal(match[1], mark, (match[2] or "")[1:])
    over = language.out_of if mark and language.out_of else language.over
    return Reading(match.end(), [(place, f"{top} {over} {language.integer(match[3])}")])


def power(text: Text, place: int) -> Reading | None:
    """A number or word after a ^."""
    match = _POWER.match(text.text, place)
    if match is None:
        return None
    language = text.language
    if match[2] in ("st", "nd", "rd", "th"):  # n^{th}
        return Reading(match.end(), [(place, match[2])])
    if not match[1] and match[2] in ("2", "3"):
        said = language.squared if match[2] == "2" else language.cubed
    else:
        whole, mark, part = match[2].partition(".")
        exponent = language.decimal(whole, mark, part) if whole.isdecimal() else match[2]
        said = language.power.format(f"{language.minus} {exponent}" if match[1] else exponent)
    return Reading(match.end(), [(place, said)])


def scientific(text: Text, place: int) -> Reading | None:
    """1e5."""
    match = _SCIENTIFIC.match(text.text, place)
    language = text.language
    if match is None or not language.times_ten:
        return None
    mark = "," if "," in match[1] else "."
    whole, _, part = match[1].partition(mark)
    sign = f"{language.minus} " if match[2] == "-" else ""
    factor, exponent = language.decimal(whole, mark, part), language.integer(match[3])
    return Reading(match.end(), [(place, f"{factor} {language.times_ten} {sign}{exponent}")])


def version(text: Text, place: int) -> Reading | None:
    """1.2.3 and v2."""
    match = _VERSION.match(text.text, place)
    language = text.language
    if match is None or "." not in language.decimals:
        return None
    number = match[1] or match[2]
    if match[0][0] not in "vV" and parse_number(number, language):
        return None
    said = f" {language.decimals['.']} ".join(language.integer(part) for part in number.split("."))
    return Reading(match.end(), [(place, f"version {said}" if match[0][0] in "vV" else said)])


def size(text: Text, place: int) -> Reading | None:
    """3x5, 1920 x 1080, 2 x 3 x 4 cm."""
    if not _SIZE.match(text.text, place):
        return None
    reader = amounts(text.language)
    pieces: list[Piece] = []
    while match := _SIZE.match(text.text, place):
        written = match[0].rstrip().rstrip("x").rstrip()
        first = reader.parse(written, 0, signed=False)
        if first is None or first.end != len(written) or not first.bare:
            return None
        pieces += [(place, said) for _, said in reader.say(text, first).pieces]
        pieces.append((place, text.language.by))
        place = match.end()
    last = reader.parse(text.text, place, signed=False)
    if last is None:
        return None
    return Reading(last.end, [*pieces, *reader.say(text, last).pieces])


def score(text: Text, place: int) -> Reading | None:
    """16:9 and 3:2, which are not times."""
    match = _SCORE.match(text.text, place)
    if match is None:
        return None
    language = text.language
    return Reading(
        match.end(),
        [(place, f"{language.integer(match[1])} {language.to} {language.integer(match[2])}")],
    )


def numbered(text: Text, place: int) -> Reading | None:
    """#7."""
    match = _HASH.match(text.text, place)
    language = text.language
    if match is None or not language.number:
        return None
    said = language.told(match[1]) if any(text.is_code(place)) else language.integer(match[1])
    return Reading(match.end(), [(place, f"{language.number} {said}")])


def amount(text: Text, place: int) -> Reading | None:
    """A number with its sign, currency and unit, or a range of two."""
    reader = amounts(text.language)
    first = reader.parse(text.text, place)
    if first is None:
        return None
    if text.text[first.end : first.end + 1] == "-" and first.more != "+":
        last = reader.parse(text.text, first.end + 1)
        if (
            last is not None
            and not (last.number.whole[:1] == "0" and len(last.number.whole) > 1)
            and not (last.signs and text.text[first.end + 1] != "-")
            and not _GOES_ON.match(text.text, last.end)
        ):
            return reader.say_range(text, first, last)
    if first.bare and not first.signs and not first.number.fraction:
        written = text.text[place : first.end]
        number = first.number.whole
        # A long number without groups is an identifier; a grouped one by itself is a telephone
        # number in Spanish.
        alone = (
            written.count(" ") > 1
            and text.language.spaced_groups
            and not text.counts_something(first.end)
        )
        if alone or (written.isdecimal() and len(number) >= 7 and not number.endswith("000")):
            return Reading(first.end, _told(text, written, place))
        if text.language.code == "de" and len(written) == 4 and "1100" <= written < "2000":
            year = number_words(int(written), "de", "year") or written
            return Reading(first.end, [(place, year)])
    if text.language.code == "en" and text.before(place)[-1:] in (["a"], ["an"]):
        first = first._replace(hyphened=text.counts_something(first.end))  # "a $5 bill"
    return reader.say(text, first)


ENDS = " ,;:!?.)\"'"
"""The marks that may follow a number: these, or nothing."""

RULES: tuple[tuple[Rule, str, bool], ...] = (
    (code, ENDS + "-", False),
    (power, "", True),
    (scientific, "a.,", False),
    (numbered, "", True),
    (date, "-./", False),
    (day, " .aº°", False),
    (clock, ":a.", False),
    (ordinal, "a.,ºª°", False),
    (phone, " -./)", True),
    (fraction, " /.,½¼¾⅓⅔", True),
    (size, "a .,", False),
    (version, ".", True),
    (amount, "*", True),
    (score, ":", False),
)
"""The rules of every language; English has its own before them. Each has the marks that may follow
its first digits ("a" is any letter, "*" anything), and whether it may begin with something other
than a digit."""
