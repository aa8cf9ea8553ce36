"""What the grammar of numbers needs of a language."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from orpheus_plugin.text.numerals import number_words

Names = tuple[str, str]
"""A unit after one and after any other number; the first includes the word for one: "one mile"."""


def _no_date(day: int, month: int, year: str | None, before: str) -> str:
    return ""


def _no_clock(hour: int, minute: int, named: bool) -> str:
    return ""


def _no_ordinal(value: int, form: str) -> str:
    return ""


def _side_by_side(whole: str, part: str, noun: str, before: str) -> str:
    return f"{whole} {part}".strip()


def agreeing_half(
    half: str, feminine_half: str, link: str, feminine: Callable[[str], bool]
) -> Callable[[str, str, str, str], str]:
    """A rule `mixed` where a half has the gender of its noun: media hora, due e mezzo."""

    def mixed(whole: str, part: str, noun: str, before: str) -> str:
        article, _, name = noun.lower().rpartition(" ")
        if part == half and (article == "una" or (not article and feminine(name))):
            part = feminine_half
        return f"{whole} {link} {part}" if whole else part

    return mixed


def _uncounted(words: str, noun: str, before: str) -> str:
    return words


@dataclass(frozen=True, eq=False)
class Language:
    """A language's words and marks for figures.

    Attributes:
        code: two letters.
        spells: whether numbers can be written out in it.
        decimals: the marks between a number and its decimals, each with its word.
        groups: the marks between groups of three digits.
        spaced_groups: whether a space may separate groups, too: 1 249.
        glued: whether a number and what it counts are written together.
        digits: the digits as they are spoken one by one.
        minus, plus, to, times, by, over, number, percent: as in "minus five", "five to ten", "two
            times", "three by five", "seven over ten", "number seven", "five percent".
        words: signs and their spoken forms between words and figures.
        squared, cubed, power: what follows a number for its powers; `power` takes the exponent.
        times_ten: "times ten to the power of", for 1e5.
        currencies: sign or code -> (with one, with others, one hundredth, hundredths).
        money: the word between an amount of money and its hundredths.
        names_cents: whether the hundredths are named: "five dollars and ten cents", "fünf Euro
            zehn".
        units: what may follow a number, as it is written -> names. The case of single letters
            counts.
        periods: what may follow a slash: "/mo" -> "month".
        per: the word for that slash.
        scales: letters for thousands and more after an amount of money or a number.
        money_scales: letters that are scales only in amounts of money.
        scale_words: the words for them.
        scale_link: the word between a scale and a currency: "millions d'euros".
        months: their names as they are spoken.
        month_names: how months are written, in lower case -> 1 to 12.
        number_marks: abbreviations of "number".
        phones: a pattern of telephone numbers that have neither a plus sign nor a leading zero.
        codes: words after which a number is spoken digit by digit.
        maybe_codes: as `codes`, unless a noun follows that the number counts.
        links: words that may come between such a word and the number.
        dials: words after which a number of three or more digits is a telephone number.
        dial_links: words that may stand between.
        hours: words after which a number with a full stop is a time of day: "alle 14.30".
        emergency: numbers that are always told digit by digit, unless something is counted.
        little_words: words that a number never counts.
        date, clock, year, ordinal: rules; they give "" if they do not apply. `ordinal` takes the
            written ending.
        counted: a number's words as they stand before a noun, given with the word before the
            number. The noun is as it is written, or of a unit with its article; "" if nothing is
            counted.
        parts: "1/2" and the like -> their names.
        mixed: a whole number's words ("" without one) and a name of `parts` as they stand before a
            noun, given with the word before: 2½ hours.
        out_of: between the numbers of a rating: 4.5/5.
        symbols: signs on their own or between words.
        lone_currencies: the spoken form of a currency sign on its own.
        address: dot, slash, at, dash, underscore as they are read in an address.
        keys: keys of a telephone.
    """

    code: str
    spells: bool = True
    decimals: Mapping[str, str] = field(default_factory=dict)
    groups: str = ""
    spaced_groups: bool = False
    glued: bool = False
    digits: tuple[str, ...] = ()
    minus: str = "minus"
    plus: str = "plus"
    to: str = "-"
    times: str = "x"
    by: str = "x"
    over: str = "/"
    number: str = ""
    squared: str = ""
    cubed: str = ""
    power: str = "{}"
    times_ten: str = ""
    currencies: Mapping[str, tuple[str, str, str, str]] = field(default_factory=dict)
    money: str = " "
    names_cents: bool = False
    units: Mapping[str, Names] = field(default_factory=dict)
    periods: Mapping[str, str] = field(default_factory=dict)
    per: str = "/"
    scales: Mapping[str, str] = field(default_factory=dict)
    money_scales: Mapping[str, str] = field(default_factory=dict)
    scale_words: frozenset[str] = frozenset()
    scale_link: str = " "
    months: tuple[str, ...] = ()
    month_names: Mapping[str, int] = field(default_factory=dict)
    number_marks: frozenset[str] = frozenset()
    phones: str = ""
    codes: frozenset[str] = frozenset()
    maybe_codes: frozenset[str] = frozenset()
    links: frozenset[str] = frozenset()
    dials: frozenset[str] = frozenset()
    dial_links: frozenset[str] = frozenset()
    emergency: frozenset[str] = frozenset()
    hours: frozenset[str] = frozenset()
    little_words: frozenset[str] = frozenset()
    date: Callable[[int, int, str | None, str], str] = _no_date
    clock: Callable[[int, int, bool], str] = _no_clock
    ordinal: Callable[[int, str], str] = _no_ordinal
    counted: Callable[[str, str, str], str] = _uncounted
    parts: Mapping[str, str] = field(default_factory=dict)
    mixed: Callable[[str, str, str, str], str] = _side_by_side
    out_of: str = ""
    symbols: Mapping[str, str] = field(default_factory=dict)
    lone_currencies: Mapping[str, str] = field(default_factory=dict)
    operations: Mapping[str, str] = field(default_factory=dict)
    address: tuple[str, str, str, str, str] = ("dot", "slash", "at", "dash", "underscore")
    keys: Mapping[str, str] = field(default_factory=dict)

    def integer(self, digits: str) -> str:
        """A whole number in words; digit by digit if it has a leading zero or more than 15
        digits."""
        if len(digits) > 15 or (digits[0] == "0" and len(digits) > 1):
            return self.told(digits)
        return number_words(int(digits), self.code) or digits

    def told(self, digits: str) -> str:
        """Digits one by one."""
        return " ".join(self.digits[int(d)] if self.digits else d for d in digits)

    def decimal(self, whole: str, mark: str, fraction: str) -> str:
        """A number with its decimals."""
        said = self.integer(whole) if whole else ""
        if not fraction:
            return said
        names = " ".join(number_words(int(d), self.code) or d for d in fraction)
        return f"{said} {self.decimals.get(mark, mark)} {names}".strip()


def months(names: str) -> tuple[tuple[str, ...], dict[str, int]]:
    """Twelve names, and their written forms: whole, or the first three letters."""
    listed = tuple(names.split())
    written: dict[str, int] = {}
    for index, name in enumerate(listed, 1):
        written[name.lower()] = index
        if len(name) > 3:
            written.setdefault(name[:3].lower(), index)
    return listed, written


def word_set(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())
