"""The grammar of amounts: a number with its sign, currency, scale, unit and period, and ranges of
them.

    amount = [comparison] [sign] [currency] number [scale] ["+" | "x"]
             [currency | unit] {"/" period}
    range  = amount "-" amount

A part that one side of a range lacks is taken from the other side: "5-10 kg", "$5-10M".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from orpheus_plugin.text.context import Piece, Reading, Text
from orpheus_plugin.text.languages import Language
from orpheus_plugin.text.languages.base import Names
from orpheus_plugin.text.written_numbers import Number, parse_money, parse_number

_ONE_SCALE = {
    "millions": "million", "milliards": "milliard", "millones": "millón", "billones": "billón",
    "milioni": "milione", "miliardi": "miliardo", "Millionen": "Million", "Milliarden": "Milliarde",
}  # fmt: skip
_ROUND = frozenset(name for pair in _ONE_SCALE.items() for name in pair if name.islower())


def _is_name(number: Number) -> bool:
    return len(number.whole) < 2 and not number.fraction


class Amount(NamedTuple):
    """A number with its sign, currency, scale, unit and period. Places are indexes into the
    text."""

    end: int
    place: int
    number: Number
    signs: tuple[Piece, ...] = ()
    currency: str = ""
    currency_place: int = -1  # if it follows the number
    scale: str = ""
    scale_place: int = -1  # if it is a word of its own
    more: str = ""
    unit: str = ""
    unit_place: int = -1
    hyphened: bool = False  # "a 5-kg bag", "a $5 bill": the unit stays in the singular
    per: tuple[Piece, ...] = ()

    @property
    def bare(self) -> bool:
        """Only a number."""
        return not (self.currency or self.scale or self.unit or self.more or self.per)


def _any_of(names: Iterable[str]) -> str:
    return "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True)) or "(?!)"


class Unit(NamedTuple):
    """A unit that stands alone: its names, place and end."""

    names: Names
    place: int
    end: int

    @property
    def one(self) -> str:
        """The name after one, without the word for one."""
        return re.split(r"[ ']", self.names[0], maxsplit=1)[-1]


class Amounts:
    """Reads amounts in one language."""

    def __init__(self, language: Language) -> None:
        self.language = language
        self._scales = {**language.scales, **language.money_scales}
        point = re.escape("".join(language.decimals) or ".")
        quote = r"|'\d{3}" if "'" in language.groups else ""
        grouped = rf"\d{{1,3}}(?:[.,]\d{{2,3}}{quote})+"
        spaced = r"|[1-9]\d{0,2}(?: \d{3})* 000(?! \d)"  # 10 000, but not 5 100
        if language.spaced_groups:
            spaced = r"|\d{1,3}(?: \d{3})+"
        number = rf"(?P<number>(?:{grouped}{spaced}|\d+)(?:[{point}]\d+)?(?!\d)|[{point}]\d+)"
        exact = [u for u in language.units if len(u) == 1 or (u != u.lower() and not u.islower())]
        loose = [u for u in language.units if u not in exact]
        if language.code == "en":
            exact = [u for u in exact if u not in ("V", "W")]
        glued = "|(?<=\\d)(?:in|V|W)" if language.code == "en" else ""  # "60W", but "45 W 34th St"
        named, letters = (
            _any_of(u for u in exact if (len(u) > 1) == long) for long in (True, False)
        )
        unit = rf"(?:{named}|(?i:{_any_of(loose)})|{letters}{glued})".replace("°", r"°\s?")
        signs = r"(?P<signs>(?:[<>]=?|[≤≥~≈])?\s?[-+±]?)"
        currency = rf"(?:{_any_of(language.currencies)})"
        end = r"(?!\d)" if language.glued else r"(?!\w)(?![.,:]\d)"
        long_scales, short_scales = (
            _any_of(s for s in language.scales if (len(s) > 1) == long) for long in (True, False)
        )
        scale = rf"\s?(?:{long_scales})|{short_scales}"
        money_scale = _any_of([*language.scales, *language.money_scales])
        word = rf"[\s-](?P<word>{_any_of(language.scale_words)})"
        plus = r"(?P<more>\+(?!\d))?"
        self._before = re.compile(
            rf"{signs}(?P<currency>{currency})\s?(?P<inner>-?){number}(?:\s?(?P<scale>{money_scale})(?!\w)|{word}(?!\w))?{plus}{end}"
        )
        self._after = re.compile(
            rf"{signs}{number}(?:\s?(?P<scale>{money_scale})|{word}(?!\w))?\s?(?P<currency>{currency}){plus}{end}"
        )
        self._plain = re.compile(
            rf"{signs}{number}(?:(?P<scale>{scale})(?!\w)|{word}(?!\w))?(?P<more>\+(?!\d)|\s?[x×](?![\w.^+=]|\s?[\d+=]|\s[-*/]\s?\d))?"
            rf"(?:[\s-]?(?P<unit>{unit})(?:\.(?=\s[a-zà-ÿ]|[,;:]))?(?!\w))?{end}"
        )
        self._unit = re.compile(rf"[\s-]?({unit})(?!\w)")
        self._number = re.compile(rf"{signs}{number}(?P<more>\+(?!\d))?{end}")
        self._per_number = re.compile(r"/(?=\d[\d.,]*\s?[^\W\d])")  # $1/1000 tokens
        self._period = re.compile(r"\s?/\s?([^\W\d]{1,12}[²³]?)(?!\w)")

    def parse(self, text: str, place: int, *, signed: bool = True) -> Amount | None:
        """The amount that begins at a place, if one does."""
        for pattern in (self._before, self._after, self._plain, self._number):
            match = pattern.match(text, place)
            if match is None or (not signed and match["signs"]):
                continue
            number = parse_number(match["number"], self.language)
            if pattern in (self._before, self._after):
                number = parse_money(match["number"], match["currency"], self.language) or number
            if number is None or (
                pattern is self._plain and match["scale"] == "K" and _is_name(number)
            ):
                continue  # 4K is a name
            return self._amount(text, match, number)
        return None

    def unit(self, text: str, place: int) -> Unit | None:
        """The unit that follows at a place, if one does: of a fraction, 2½ kg."""
        match = self._unit.match(text, place)
        names = self._unit_names(re.sub(r"(?<=°)\s", "", match[1])) if match else None
        return Unit(names, match.start(1), match.end()) if match and names else None

    def _amount(self, text: str, match: re.Match[str], number: Number) -> Amount:
        groups = match.groupdict()
        unit, currency = groups.get("unit") or "", groups.get("currency") or ""
        behind = bool(currency) and match.start("currency") > match.start("number")
        unit = re.sub(r"\s", "", unit) if "°" in unit else unit
        end = match.end()
        per: list[Piece] = []
        while (slash := self._period.match(text, end)) and (name := self._period_name(slash[1])):
            per.append((slash.start(1), f"{self.language.per} {name}"))
            end = slash.end()
        if currency and (slash := self._per_number.match(text, end)):
            counted = self.parse(text, slash.end(), signed=False)
            if counted is not None and not counted.currency:
                (place, said), *others = self._value(counted, "", "")
                per += [(place, f"{self.language.per or 'per'} {said}"), *others]
                end = counted.end
        signs = (
            [(match.start("signs"), self._sign(match["signs"].strip()))]
            if match["signs"].strip()
            else []
        )
        if groups.get("inner"):
            signs.append((match.start("inner"), self.language.minus))
        return Amount(
            end, match.start("number"), number, tuple(signs), currency,
            match.start("currency") if behind else -1,
            (groups.get("scale") or groups.get("word") or "").strip(),
            match.start("word") if groups.get("word") else -1,
            (groups.get("more") or "").strip(), unit, match.start("unit") if unit else -1,
            bool(unit) and text[match.start("unit") - 1] == "-", tuple(per),
        )  # fmt: skip

    def _period_name(self, written: str) -> str:
        if name := self.language.periods.get(written.lower()):
            return name
        if names := self.language.units.get(written) or self.language.units.get(written.lower()):
            return names[0].partition(" ")[2]
        return written if len(written) > 2 and written.islower() else ""

    def _sign(self, signs: str) -> str:
        language = self.language
        names = {"-": language.minus, "+": language.plus, **language.symbols}
        both = [signs] if signs in names else [part for part in (signs[:-1], signs[-1:]) if part]
        return " ".join(names.get(part, part) for part in both)

    # ---- in words

    def say(self, text: Text, amount: Amount) -> Reading:
        """One amount in words."""
        value = self._value(amount, *self._counts(text, amount, amount))
        return Reading(amount.end, [*amount.signs, *value, *amount.per])

    def _counts(self, text: Text, first: Amount, last: Amount) -> tuple[str, str]:
        """What is counted, and the word before; English does not ask."""
        if self.language.code == "en":
            return "", ""
        return self._noun(text, last), text.word_before(first.place)

    def _noun(self, text: Text, amount: Amount) -> str:
        """What a number without a unit counts: the word behind it, if that may be a noun."""
        if not amount.bare or amount.number.fraction or not text.goes_on(amount.end):
            return ""
        if self.language.code == "de":
            after = text.word_after(amount.end)
            return after if after[:1].isupper() else ""
        return text.word_after(amount.end) if text.counts_something(amount.end) else ""

    def say_range(self, text: Text, first: Amount, last: Amount) -> Reading:
        """Two amounts with "to" between them. A part that one of them lacks is taken from the other
        and spoken once."""
        if not last.currency and first.currency and not last.unit:
            last = last._replace(currency=first.currency)
            first = first._replace(currency="", currency_place=-1)
        alike = first.unit.lower() == last.unit.lower() and first.currency == last.currency
        if alike and not first.scale and not first.number.fraction and not last.number.fraction:
            first = first._replace(unit="", unit_place=-1, currency="", currency_place=-1)
        elif alike and first.scale and last.scale:
            first = first._replace(currency="", currency_place=-1)
        if first.more == last.more:
            first = first._replace(more="")
        to = [(first.end, self.language.to)]
        noun, before = self._counts(text, first, last)
        return Reading(
            last.end,
            [
                *first.signs,
                *self._value(first, noun, before),
                *first.per,
                *to,
                *last.signs,
                *self._value(last, noun, before),
                *last.per,
            ],
        )

    def _value(self, amount: Amount, noun: str, before: str) -> list[Piece]:
        if amount.currency:
            return self._money(amount)
        said, single = self._said(amount, noun, before)
        names = self._unit_names(amount.unit)
        if not names:
            return said
        if single:
            return [(amount.place, names[0])] if amount.unit_place < 0 else _split(amount, names[0])
        return [
            *said,
            (amount.unit_place, names[0].partition(" ")[2] if amount.hyphened else names[1]),
        ]

    def _unit_names(self, unit: str) -> tuple[str, str] | None:
        if unit == "in":
            return ("one inch", "inches")
        return self.language.units.get(unit) or self.language.units.get(unit.lower())

    def _said(self, amount: Amount, noun: str = "", before: str = "") -> tuple[list[Piece], bool]:
        """The number with its scale, and whether it is exactly one."""
        language, number = self.language, amount.number
        words = language.decimal(*number)
        scale = self._scales.get(amount.scale, amount.scale)
        if number == Number("1"):
            scale = _ONE_SCALE.get(scale, scale)
        if not number.fraction and language.code != "en":
            names = self._unit_names(amount.unit)
            money = language.currencies.get(amount.currency)
            noun = scale or (names[0] if names else "") or (money[0] if money else noun)
            words = language.counted(words, noun, before)
        pieces = [(amount.place, words)]
        if scale:
            pieces.append((amount.scale_place if amount.scale_place >= 0 else amount.place, scale))
        if amount.more:
            pieces.append((amount.place, language.plus if amount.more == "+" else language.times))
        return pieces, number == Number("1") and not amount.scale and not amount.more

    def _money(self, amount: Amount) -> list[Piece]:
        language, number = self.language, amount.number
        one, many, cent, cents = language.currencies[amount.currency]
        if amount.hyphened:
            many = one.partition(" ")[2]
        place = max(amount.place, amount.currency_place, amount.scale_place)
        if len(number.fraction) == 2 and cents and not amount.scale:
            whole, small = number.whole.lstrip("0"), int(number.fraction)
            if not whole and small:
                said = cent if small == 1 else f"{language.integer(str(small))} {cents}"
                return [(amount.place, said)]
            if small:
                unit = (
                    one
                    if whole == "1"
                    else f"{language.counted(language.integer(whole), one, '')} {many}"
                )
                coins = language.integer(str(small))
                if language.names_cents:
                    coins = cent if small == 1 else f"{coins} {cents}"
                return [(amount.place, f"{unit}{language.money}{coins}"), *self._more(amount)]
            amount = amount._replace(number=Number(number.whole or "0"))
        pieces, single = self._said(amount._replace(more=""))
        if single:
            return [
                *(_split(amount, one) if amount.currency_place >= 0 else [(amount.place, one)]),
                *self._more(amount),
            ]
        last = pieces[-1][1].rpartition(" ")[2]
        scale = amount.scale or (last if last in _ROUND else "")  # "un million d'euros"
        return [*pieces, (place, self.link(scale, many)), *self._more(amount)]

    def _more(self, amount: Amount) -> list[Piece]:
        return [(amount.place, self.language.plus)] if amount.more else []

    def link(self, scale: str, many: str) -> str:
        """What is counted after a scale or part: "millions d'euros", but "mille euros"."""
        name = self._scales.get(scale, scale)
        link = self.language.scale_link
        if not scale or link == " " or name in ("mille", "mil", "mila"):
            return many
        if link == " d'" and many[0] not in "aeiouyhéè":
            link = " de "
        return f"{link.strip()}{'' if link.endswith(chr(39)) else ' '}{many}"


def _split(amount: Amount, names: str) -> list[Piece]:
    """ "one mile": the number's own word at the number, the rest at the unit."""
    one, _, rest = names.partition(" ")
    place = max(amount.unit_place, amount.currency_place)
    return [(amount.place, one), (place, rest)] if rest else [(amount.place, one)]


@lru_cache(maxsize=16)
def amounts(language: Language) -> Amounts:
    """The reader of a language; made once."""
    return Amounts(language)
