"""Numbers as they are written: their digits, whatever marks the groups and the decimals."""

from __future__ import annotations

import re
from typing import NamedTuple

from orpheus_plugin.text.languages import Language


class Number(NamedTuple):
    """A number's digits before and after the decimal mark, and that mark."""

    whole: str
    mark: str = ""
    fraction: str = ""


def parse_number(written: str, language: Language) -> Number | None:
    """The digits of a written number; None if its marks do not fit a number."""
    text = written.replace(" ", "").replace("'", "")
    marks = [c for c in text if c in ".,"]
    if not marks:
        return Number(text)
    last = marks[-1]
    whole, _, fraction = text.rpartition(last)
    if len(set(marks)) == 2:  # with two kinds, the last mark is the decimal mark
        group = "," if last == "." else "."
        fits = marks.count(last) == 1 and _grouped(whole, group, indian=group == ",")
        return Number(whole.replace(group, ""), last, fraction) if fits else None
    if (last in language.groups or len(marks) > 1) and _grouped(text, last, indian=last == ","):
        return Number(text.replace(last, ""))
    return Number(whole, last, fraction) if len(marks) == 1 and last in language.decimals else None


def parse_money(written: str, currency: str, language: Language) -> Number | None:
    """An amount of money written as elsewhere: R$ 50,00 and €1.000 in English, $1,000 in
    Spanish."""
    if match := re.fullmatch(r"(\d+)([.,])(\d\d)", written):
        return Number(match[1], match[2], match[3])
    mark = "," if "," in language.decimals else "." if currency == "€" else ""
    if mark and re.fullmatch(rf"[1-9]\d{{0,2}}(?:{re.escape(mark)}\d{{3}})+", written):
        return Number(written.replace(mark, ""))
    return None


def _grouped(text: str, mark: str, *, indian: bool = False) -> bool:
    first, *groups = text.split(mark)
    if not groups or not 1 <= len(first) <= 3 or len(groups[-1]) != 3 or first[0] == "0":
        return False
    lengths = {len(group) for group in groups[:-1]}
    return lengths <= {3} or (indian and lengths == {2} and len(first) <= 2)
