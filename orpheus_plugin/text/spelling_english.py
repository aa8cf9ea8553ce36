"""English numbers, money, times, dates, units, titles and acronyms as words."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from orpheus_plugin.text.numerals import number_words

_CORE = re.compile(r"^([^\w$€£¥₹#+\-−°~≈<>.]*)(.*?)([^\w%°€£$¥₹+]*)$", re.DOTALL)
_NUMBER = r"\d{1,3}(?:,\d{3})+|\d+"

_DIGITS = ("oh", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
_MONTH_NAMES = {
    **{name.lower(): name for name in _MONTHS},
    **{name[:3].lower(): name for name in _MONTHS if name != "May"},
    "sept": "September",
}
_DAY_NAMES = {
    **{name[:3].lower(): name for name in ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")},
    "tues": "Tuesday", "thur": "Thursday", "thurs": "Thursday",
}  # fmt: skip
_SCALES = {"k": "thousand", "m": "million", "b": "billion", "bn": "billion", "t": "trillion"}
_SCALE_WORDS = frozenset({"thousand", "million", "billion", "trillion"})
_CURRENCIES = {
    "$": ("dollar", "dollars", "cent", "cents"),
    "€": ("euro", "euros", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "¥": ("yen", "yen", "sen", "sen"),
    "₹": ("rupee", "rupees", "paisa", "paise"),
}
_CURRENCY_CODES = {"usd": "$", "eur": "€", "gbp": "£", "jpy": "¥", "inr": "₹"}
_INCHES = ("inch", "inches")
_UNITS = {
    "km": ("kilometer", "kilometers"), "cm": ("centimeter", "centimeters"), "mm": ("millimeter", "millimeters"),
    "kg": ("kilogram", "kilograms"), "g": ("gram", "grams"), "mg": ("milligram", "milligrams"),
    "lb": ("pound", "pounds"), "lbs": ("pound", "pounds"), "oz": ("ounce", "ounces"), "ft": ("foot", "feet"),
    "mi": ("mile", "miles"), "mph": ("mile per hour", "miles per hour"),
    "km/h": ("kilometer per hour", "kilometers per hour"), "kph": ("kilometer per hour", "kilometers per hour"),
    "°c": ("degree Celsius", "degrees Celsius"), "°f": ("degree Fahrenheit", "degrees Fahrenheit"),
    "°": ("degree", "degrees"), "kb": ("kilobyte", "kilobytes"), "mb": ("megabyte", "megabytes"),
    "gb": ("gigabyte", "gigabytes"), "tb": ("terabyte", "terabytes"), "hz": ("hertz", "hertz"),
    "khz": ("kilohertz", "kilohertz"), "mhz": ("megahertz", "megahertz"), "ghz": ("gigahertz", "gigahertz"),
    "ms": ("millisecond", "milliseconds"), "sec": ("second", "seconds"), "secs": ("second", "seconds"),
    "min": ("minute", "minutes"), "mins": ("minute", "minutes"), "hr": ("hour", "hours"), "hrs": ("hour", "hours"),
    "kw": ("kilowatt", "kilowatts"), "kwh": ("kilowatt hour", "kilowatt hours"), "ml": ("milliliter", "milliliters"),
    "px": ("pixel", "pixels"), "sq": ("square", "square"), "m": ("meter", "meters"), "s": ("second", "seconds"),
    "h": ("hour", "hours"), "l": ("liter", "liters"), "tsp": ("teaspoon", "teaspoons"),
    "tbsp": ("tablespoon", "tablespoons"), "gal": ("gallon", "gallons"),
}  # fmt: skip
_ABBREVIATIONS = {
    "mr.": "Mister", "mrs.": "Missus", "ms.": "Miz", "dr.": "Doctor", "prof.": "Professor", "st.": "Saint",
    "e.g.": "for example", "i.e.": "that is", "etc.": "et cetera", "etc": "et cetera", "vs.": "versus", "vs": "versus",
    "approx.": "approximately", "dept.": "department", "est.": "established", "a.m.": "A M", "p.m.": "P M",
    "ave.": "Avenue", "blvd.": "Boulevard", "ext.": "extension",
}  # fmt: skip
_MAY_END = frozenset({"a.m.", "p.m.", "etc.", "dept.", "est.", "ave.", "blvd."})
_NO_STREETS = frozenset(
    {"the", "mount", "mt", "fort", "ft", "port", "lake", "and"}
)  # they stand before a Saint
_INITIALS = re.compile(r"(?:[A-Z]\.)+[A-Z]")
_SPELLED_LIST = (
    "AI API APIs CPU CPUs GPU GPUs UI UX ID IDs URL URLs USA UK EU UN FAQ OS IT PIN IP IPO CEO CFO CTO COO "
    "USB IBM FBI CIA NBA AWS EV EVs IQ DIY ETA ATM IOU LLM LLMs AC AM PM UPS DNA RNA SQL"
)
_YEAR_LIST = (
    "in since of year by until till from before after during circa ca c around was is early late mid the spring summer "
    "autumn fall winter born died"
)
_CODE_LIST = "code pin zip number id extension ext room flight account order confirmation reference tracking passcode password"
_SPELLED = frozenset(_SPELLED_LIST.split())
_YEAR_BEFORE = frozenset(_YEAR_LIST.split())
_YEAR = r"((?:1[1-9]|20)\d\d)"
_YEARS_IN_BRACKETS = re.compile(rf"{_YEAR}(?:[-–]{_YEAR})?")  # Gandhi (1869-1948)
_DIGITS_BEFORE = frozenset(_CODE_LIST.split())
_LINKS = frozenset({"is", "was", "are", "number", "code"})  # "your code is", "the order number is"
_TIME = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?\s?([ap])?\.?(m)?\.?", re.IGNORECASE)
_HOUR = re.compile(r"(\d{1,2})([ap])\.?m\.?", re.IGNORECASE)
_MONEY = re.compile(rf"-?([$€£¥₹])({_NUMBER})(\.\d+)?([kKmMbBtT]|bn)?(?:/(\w+))?")
_MONEY_AFTER = re.compile(rf"({_NUMBER})(\.\d+)?([$€£¥₹])")
_PERCENT = re.compile(rf"([-+]?)({_NUMBER})(\.\d+)?%")
_ISO_DATE = re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2})")
_SLASH_DATE = re.compile(r"(\d{1,2})/(\d{1,2})/(\d{4}|\d{2})")
_ORDINAL = re.compile(rf"({_NUMBER})(?:st|nd|rd|th)", re.IGNORECASE)
_DECADE = re.compile(r"(\d{3}0|\d0)'?s")
_HEIGHT = re.compile(r"(\d)'(\d{1,2})")
_VERSION = re.compile(r"(v)?(\d+(?:\.\d+){2,})", re.IGNORECASE)
_SHORT_VERSION = re.compile(r"(v)(\d+(?:\.\d+)?)", re.IGNORECASE)
_PHONE = re.compile(r"\+?\(?\d{1,4}\)?(?:[-.]\(?\d{2,4}\)?)*[-.]\d{3,4}(?:-\d{2,4})?")
_LONG_CODE = re.compile(r"\d+(?:-\d+){3,}")
_RANGE = re.compile(rf"([$€£]?(?:{_NUMBER})(?:\.\d+)?%?)-([$€£]?(?:{_NUMBER})(?:\.\d+)?%?)")
_FRACTION = re.compile(r"(\d{1,3})/(\d{1,3})")
_PLAIN = re.compile(rf"([-+~≈]?)({_NUMBER})(\.\d+)?")
_WITH_UNIT = re.compile(rf"([-+~]?)({_NUMBER})(\.\d+)?-?([a-zA-Z°/]+)")
_MIXED = re.compile(r"[A-Za-z]+|\d+(?:\.\d+)?|[^A-Za-z\d]+")
_VULGAR = {"½": "one half", "¼": "one quarter", "¾": "three quarters"}
_PARTS = {2: ("half", "halves"), 4: ("quarter", "quarters")}


def spell_english(words: Sequence[str]) -> list[str]:
    """The same words, each with what is hard to read in it written out."""
    return _English(words).spell()


def _unit(text: str) -> tuple[str, str] | None:
    return _UNITS.get(text if len(text) == 1 else text.lower())


class _English:
    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self.cores = [_CORE.match(word)[2] if word else "" for word in words]  # type: ignore[index]

    def spell(self) -> list[str]:
        out: list[str] = []
        dialled = self._dialled()
        for index, word in enumerate(self.words):
            if index in dialled:
                out.append(dialled[index])
                continue
            plain = not word or (word.islower() and word.isalpha() and not self._after_digit(index))
            out.append(word if plain else self._word(index, word))
        return out

    def _dialled(self) -> dict[int, str]:
        """Telephone numbers written with spaces, group by group: +44 20 7946 0958, 555 123 4567."""
        out: dict[int, str] = {}
        for start, first in enumerate(self.cores):
            if start in out or not re.fullmatch(r"\+\d{1,3}|0\d{1,4}|\d{3}", first):
                continue
            end = start + 1
            while (
                end < len(self.cores)
                and self.words[end - 1].endswith(self.cores[end - 1])  # no mark between them
                and re.fullmatch(r"\d{2,5}", self.cores[end])
            ):
                end += 1
            groups = self.cores[start:end]
            lengths = [len(group.lstrip("+")) for group in groups]
            if first[0] not in "+0" and lengths != [3, 3, 4]:
                continue
            if len(groups) > 2 and 8 <= sum(lengths) <= 15:
                for place, group in enumerate(groups, start):
                    plus = "plus " if group[0] == "+" else ""
                    said = plus + _digits(group) + ("," if place < end - 1 else "")
                    out[place] = self.words[place].replace(group, said)
        return out

    def _is_code(self, index: int) -> bool:
        """Whether a number is told digit by digit: "your code is 493027", but not "the number is 5000"."""
        core = self.cores[index]
        if not core.isdecimal() or len(core) < 4 or core.endswith("00"):
            return False
        for place in range(index - 1, max(-1, index - 4), -1):
            before = self.cores[place].lower()
            if before in _DIGITS_BEFORE:
                return True
            if before not in _LINKS:
                return False
        return False

    def _after_digit(self, index: int) -> bool:
        return any(c.isdecimal() for c in self._near(index, -1))

    def _near(self, index: int, step: int) -> str:
        index += step
        while 0 <= index < len(self.words):
            if self.words[index]:
                return self.cores[index]
            index += step
        return ""

    def _ends_sentence(self, index: int) -> bool:
        after = self._near(index, 1)
        return not after or (after[:1].isupper() and (len(after) == 1 or not after.isupper()))

    def _word(self, index: int, word: str) -> str:
        lower = word.lower()
        bare = lower.lstrip("\"'(").rstrip(",;:!?\"')")
        if bare in _ABBREVIATIONS:
            street = bare == "st." and self._is_street(index)
            tail = word[len(word.rstrip(",;:!?\"')")) :]
            stop = "." if (street or bare in _MAY_END) and self._ends_sentence(index) else ""
            return ("Street" if street else _ABBREVIATIONS[bare]) + (tail or stop)
        match = _CORE.match(word)
        if match is None:
            return word
        head, core, tail = match.groups()
        if bare == "no." and self._near(index, 1)[:1].isdecimal():
            return f"{head}number"
        if self._is_code(index):
            return f"{head}{_digits(core)}{tail}"
        before, after = self._near(index, -1), self._near(index, 1)
        if full := _calendar(core, before, after, dotted=tail == "."):
            return f"{head}{full}"
        said = _bracketed(head, core, tail) or self._core(core, before, after)
        # "the U.K. is", "40 min. before": the stop belongs to the abbreviation.
        short = _INITIALS.fullmatch(core) or (core.lower() in _UNITS and after[:1].islower())
        if tail == "." and short and not self._ends_sentence(index):
            tail = ""
        return word if said is None else f"{head}{said}{tail}"

    def _is_street(self, index: int) -> bool:
        before, after = self._near(index, -1), self._near(index, 1)
        return not after[:1].isupper() or (
            before[:1].isupper() and before.lower() not in _NO_STREETS
        )

    def _core(self, core: str, before: str, after: str) -> str | None:
        if not any(c.isdecimal() or c in _VULGAR for c in core):
            return self._letters(core, before)
        for rule in _ENGLISH_RULES:
            said = rule(core, before, after)
            if said is not None:
                return said
        return None

    def _letters(self, core: str, before: str) -> str | None:
        if core.lower() in _SCALE_WORDS and (match := _MONEY.fullmatch(before)):
            return f"{core} {_CURRENCIES[match[1]][1]}"
        unit = _unit(core)
        if unit and re.fullmatch(rf"[-+~]?(?:{_NUMBER})(?:\.\d+)?", before):
            return unit[0 if before == "1" else 1]
        if core.lower() in ("am", "pm") and before[-1:].isdecimal():
            return " ".join(core.upper())
        symbol = _CURRENCY_CODES.get(core.lower())
        if symbol and core.isupper() and before[:1].isdecimal():
            return _CURRENCIES[symbol][1]
        return _acronym(core)


def _bracketed(head: str, core: str, tail: str) -> str | None:
    """A year or two alone in brackets; "(1200)" may as well be a count."""
    match = _YEARS_IN_BRACKETS.fullmatch(core)
    if not match or head[-1:] not in ("(", "[") or tail[:1] not in (")", "]"):
        return None
    if match[2] is None and core.endswith("00"):
        return None
    return " to ".join(_year(year) for year in match.groups() if year)


def _calendar(core: str, before: str, after: str, *, dotted: bool) -> str | None:
    """A month or, with its stop, a weekday written short, next to what makes it one: "Nov. 28", "Tues. Jan. 5th"."""
    if not core[:1].isupper() or len(core) > 5:
        return None
    dated = after[:1].isdecimal() or before[:1].isdecimal()
    if core.lower() in _DAY_NAMES and dotted:
        dates = after[:1].isdecimal() or after.lower() in _MONTH_NAMES
        return _DAY_NAMES[core.lower()] if dates else None
    return _MONTH_NAMES.get(core.lower()) if dated else None


def _acronym(core: str) -> str | None:
    if core in _SPELLED or (
        2 <= len(core) <= 5 and core.isascii() and core.isupper() and core.isalpha()
        and not any(c in "AEIOUY" for c in core)
    ):  # fmt: skip
        plural = core.endswith("s")
        return " ".join(core.rstrip("s")) + ("s" if plural else "")
    if _INITIALS.fullmatch(core):
        return core.replace(".", " ").strip()
    return None


def _integer(digits: str, form: str = "cardinal") -> str:
    digits = digits.replace(",", "")
    if len(digits) > 15:
        return _digits(digits)
    return number_words(int(digits), "en", form) or digits


def _decimal(whole: str, fraction: str | None) -> str:
    said = _integer(whole)
    if fraction:
        said += " point " + " ".join("zero" if d == "0" else _DIGITS[int(d)] for d in fraction[1:])
    return said


def _digits(digits: str) -> str:
    return " ".join(_DIGITS[int(d)] for d in digits if d.isdecimal())


def _year(digits: str) -> str:
    year = int(digits)
    if 2000 <= year < 2010:
        return _integer(digits).replace(" and", "")
    high, low = divmod(year, 100)
    tail = "hundred" if low == 0 else f"oh {_DIGITS[low]}" if low < 10 else _integer(str(low))
    return f"{_integer(str(high))} {tail}"


def _sign(sign: str) -> str:
    return {"-": "minus ", "+": "plus ", "~": "about ", "≈": "about "}.get(sign, "")


def _money(core: str, before: str, after: str) -> str | None:
    if match := _MONEY.fullmatch(core):
        symbol, whole, fraction, scale, per = match.groups()
    elif match := _MONEY_AFTER.fullmatch(core):
        (whole, fraction, symbol), scale, per = match.groups(), None, None
    else:
        return None
    one, many, cent, cents = _CURRENCIES[symbol]
    minus = "minus " if core.startswith("-") else ""
    end = f" per {per}" if per else ""
    if scale:
        return f"{minus}{_decimal(whole, fraction)} {_SCALES[scale.lower()]} {many}{end}"
    if after.lower() in _SCALE_WORDS:
        return f"{minus}{_decimal(whole, fraction)}"  # the currency is said after the scale
    amount = int(whole.replace(",", ""))
    unit = one if amount == 1 else many
    if fraction and len(fraction) == 3:
        small = int(fraction[1:])
        coins = f"{_integer(str(small))} {cent if small == 1 else cents}"
        if not small:
            return f"{minus}{_integer(whole)} {unit}{end}"
        return minus + (f"{_integer(whole)} {unit} and {coins}" if amount else coins) + end
    return f"{minus}{_decimal(whole, fraction)} {many if fraction else unit}{end}"


def _percent(core: str, before: str, after: str) -> str | None:
    match = _PERCENT.fullmatch(core)
    return f"{_sign(match[1])}{_decimal(match[2], match[3])} percent" if match else None


def _time(core: str, before: str, after: str) -> str | None:
    if match := _HOUR.fullmatch(core):
        return f"{_integer(match[1])} {match[2].upper()} M"
    match = _TIME.fullmatch(core)
    if not match or bool(match[4]) != bool(match[5]) or int(match[1]) > 24 or int(match[2]) > 59:
        return None
    hour, minute, second, half, _ = match.groups()
    half = half or (after[:1] if after.lower().replace(".", "") in ("am", "pm") else None)
    said = _integer(hour)
    if minute != "00":
        said += f" oh {_DIGITS[int(minute)]}" if int(minute) < 10 else f" {_integer(minute)}"
    elif not half and 1 <= int(hour) <= 12:
        said += " o'clock"
    elif not half:
        said += " hundred"
    if second:
        said += f" and {_integer(second)} seconds"
    return f"{said} {half.upper()} M" if match[4] and half else said


def _date(core: str, before: str, after: str) -> str | None:
    if match := _ISO_DATE.fullmatch(core):
        year, month, day = match.groups()
    elif match := _SLASH_DATE.fullmatch(core):
        month, day, year = match.groups()
        if int(month) > 12:
            month, day = day, month
    else:
        return None
    if not (1 <= int(month) <= 12 and 1 <= int(day) <= 31):
        return None
    said_year = _year(year) if len(year) == 4 else _year(f"20{year}")
    return f"{_MONTHS[int(month) - 1]} {_integer(day, 'ordinal')} {said_year}"


def _day(core: str, before: str, after: str) -> str | None:
    if (
        not re.fullmatch(r"\d{1,2}(?:st|nd|rd|th)?", core)
        or not 1 <= int(core.rstrip("stndrh")) <= 31
    ):
        return None
    day = core.rstrip("stndrh")
    if before.lower() in _MONTH_NAMES:
        return _integer(day, "ordinal")
    if after.lower() in _MONTH_NAMES and after[:1].isupper():
        article = "" if before.lower() == "the" else "the "
        return f"{article}{_integer(day, 'ordinal')} of"
    return None


def _years(core: str, before: str, after: str) -> str | None:
    short = before.lower() in ("the", "early", "mid", "late", "and", "or", "to")
    if (match := _DECADE.fullmatch(core)) and (len(match[1]) == 4 or short):
        digits = match[1]
        said = _year(digits) if len(digits) == 4 else _integer(digits)
        return said[:-1] + "ies" if said.endswith("y") else said + "s"
    if re.fullmatch(_YEAR, core):
        dated = before.lower() in _YEAR_BEFORE or before.lower() in _MONTH_NAMES
        day = re.fullmatch(r"\d{1,2}(?:st|nd|rd|th)?", before) is not None
        if dated or day or (core[:2] in ("19", "20") and not after[:1].islower() and not before):
            return _year(core)
    return None


def _ordinal(core: str, before: str, after: str) -> str | None:
    match = _ORDINAL.fullmatch(core)
    return _integer(match[1], "ordinal") if match else None


def _version(core: str, before: str, after: str) -> str | None:
    match = _VERSION.fullmatch(core) or _SHORT_VERSION.fullmatch(core)
    if not match:
        return None
    said = " point ".join(_integer(part) for part in match[2].split("."))
    return f"version {said}" if match[1] else said


def _phone(core: str, before: str, after: str) -> str | None:
    count = sum(c.isdecimal() for c in core)
    if not 7 <= count <= 15 or _PLAIN.fullmatch(core):
        return None
    if not (_PHONE.fullmatch(core) or _LONG_CODE.fullmatch(core)):
        return None
    groups = re.findall(r"\d+", core)
    return ("plus " if core.startswith("+") else "") + ", ".join(_digits(group) for group in groups)


def _range(core: str, before: str, after: str) -> str | None:
    match = _RANGE.fullmatch(core)
    if not match:
        return None
    sides = []
    for side in match.groups():
        said = _money(side, "", "") or _percent(side, "", "") or _plain(side, before, "")
        sides.append(said or side)
    if before.lower() in _YEAR_BEFORE and all(
        re.fullmatch(r"(?:19|20)\d\d", s) for s in match.groups()
    ):
        sides = [_year(side) for side in match.groups()]
    return " to ".join(sides)


def _fraction(core: str, before: str, after: str) -> str | None:
    if core in _VULGAR:
        return _VULGAR[core]
    if core and core[-1] in _VULGAR and core[:-1].isdecimal():
        return f"{_integer(core[:-1])} and {_VULGAR[core[-1]].replace('one ', 'a ')}"
    match = _FRACTION.fullmatch(core)
    if not match:
        return None
    top, bottom = int(match[1]), int(match[2])
    if top == 1 and bottom in _PARTS and before.isdecimal():
        return f"and a {_PARTS[bottom][0]}"
    if core in ("24/7", "50/50", "9/11"):
        return f"{_integer(match[1])} {_integer(match[2])}"
    if not 2 <= bottom <= 20 or top >= bottom:
        return f"{_integer(match[1])} over {_integer(match[2])}"
    one, many = _PARTS.get(
        bottom, (_integer(match[2], "ordinal"), _integer(match[2], "ordinal") + "s")
    )
    return f"{_integer(match[1])} {one if top == 1 else many}"


def _plain(core: str, before: str, after: str) -> str | None:
    if re.fullmatch(r"#\d+", core):
        return f"number {_integer(core[1:])}"
    match = _PLAIN.fullmatch(core)
    if not match:
        return None
    sign, whole, fraction = match.groups()
    if len(whole) == 3 and re.fullmatch(r"\d{3}-\d{4}", after):
        return _digits(whole)  # area code
    long_code = len(whole) >= 7 and "," not in whole and not whole.endswith("000")
    told = before.lower() in _DIGITS_BEFORE and len(whole) >= 3
    if (
        not fraction
        and "," not in whole
        and (long_code or told or (whole[0] == "0" and len(whole) > 1))
    ):
        return _sign(sign) + _digits(whole)
    return _sign(sign) + _decimal(whole, fraction)


def _with_unit(core: str, before: str, after: str) -> str | None:
    match = _WITH_UNIT.fullmatch(core)
    if not match:
        return None
    sign, whole, fraction, unit = match.groups()
    said = _sign(sign) + _decimal(whole, fraction)
    if unit == "K" and len(whole) == 1:
        return None  # 4K
    if names := _INCHES if unit == "in" else _unit(unit):
        return f"{said} {names[0] if whole == '1' and not fraction else names[1]}"
    return f"{said} {_SCALES[unit.lower()]}" if unit in ("k", "K", "M", "bn") else None


def _hyphened(core: str, before: str, after: str) -> str | None:
    """20-minute, 1980s-style, 9am-5pm."""
    left, mark, right = core.partition("-")
    if not mark or not left or not right:
        return None
    if right.replace("-", "").isalpha():
        said = _first(left, before, right)
        return f"{said} {right.replace('-', ' ')}" if said else None
    start, end = _time(left, "", after), _time(right, "", after)
    return f"{start} to {end}" if start and end else None


def _height(core: str, before: str, after: str) -> str | None:
    match = _HEIGHT.fullmatch(core)
    return f"{_integer(match[1])} foot {_integer(match[2])}" if match else None


def _first(core: str, before: str, after: str) -> str | None:
    for rule in (_years, _ordinal, _plain):
        said = rule(core, before, after)
        if said is not None:
            return said
    return None


def _mixed(core: str, before: str, after: str) -> str | None:
    """Letters and digits together: GPT-4, B2B, H100."""
    if len(core) > 40:
        return None
    said: list[str] = []
    for part in _MIXED.findall(core):
        if part[0].isdecimal():
            whole, _, fraction = part.partition(".")
            if whole[0] == "0" or len(whole) > 4:
                said.append(_digits(whole) if not fraction else part)
            else:
                said.append(_decimal(whole, f".{fraction}" if fraction else None))
        elif part.isalpha():
            said.append(_acronym(part) or part)
        elif part.strip("-./:"):
            said.append(part)
    return " ".join(said)


_ENGLISH_RULES: tuple[Callable[[str, str, str], str | None], ...] = (
    _money, _percent, _time, _date, _day, _years, _ordinal, _fraction, _phone, _version, _range, _height, _hyphened,
    _plain, _with_unit, _mixed,
)  # fmt: skip
