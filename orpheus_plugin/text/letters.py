"""Letters that are not read as a word: abbreviations, streets, acronyms, Roman numerals; and
capitals for stress."""

from __future__ import annotations

import re

from orpheus_plugin.text import roman
from orpheus_plugin.text.context import Text
from orpheus_plugin.text.dates import calendar_word
from orpheus_plugin.text.languages.base import word_set
from orpheus_plugin.text.languages.en import STATES
from orpheus_plugin.text.scripts import HAS_CJK

_EDGES = re.compile(r"^([\"'(\[{¿¡]*)(.*?)([\"')\]},;:!?]*)$", re.DOTALL)
_ABBREVIATIONS = {
    "mr.": "Mister", "mrs.": "Missus", "ms.": "Miz", "dr.": "Doctor", "prof.": "Professor",
    "st.": "Saint", "rev.": "Reverend",
    "e.g.": "for example", "i.e.": "that is", "etc.": "et cetera", "etc": "et cetera",
    "vs.": "versus", "vs": "versus",
    "approx.": "approximately", "dept.": "department", "est.": "established", "a.m.": "A M",
    "p.m.": "P M", "ext.": "extension",
    "ft.": "Fort", "jr.": "Junior", "sr.": "Senior", "govt.": "government", "apt.": "apartment",
    "ste.": "suite", "mt.": "Mount",
    "mr": "Mister", "mrs": "Missus", "dr": "Doctor", "w/": "with", "w/o": "without",
    "b/c": "because", "c/o": "care of", "n/a": "not applicable",
    "a/c": "A C", "i/o": "I O", "w/out": "without", "w/in": "within", "y/n": "yes or no",
    "a.k.a.": "also known as", "aka": "also known as", "p.o.": "P O",
    "ave.": "Avenue", "blvd.": "Boulevard", "hwy.": "Highway", "pkwy.": "Parkway",
}  # fmt: skip
_BEFORE_NAMES = {
    "capt.": "Captain", "lt.": "Lieutenant", "gen.": "General", "sgt.": "Sergeant",
    "gov.": "Governor", "sen.": "Senator", "col.": "Colonel",
    "maj.": "Major", "rep.": "Representative", "hon.": "Honorable", "fr.": "Father",
    "pres.": "President",
}  # fmt: skip
_BEHIND_NAMES = {
    "inc.": "Incorporated", "ltd.": "Limited", "co.": "Company", "corp.": "Corporation",
    "bros.": "Brothers",
}  # fmt: skip
_BEFORE_FIGURES = {
    "p.": "page", "pp.": "pages", "fig.": "figure", "figs.": "figures", "sec.": "section",
    "ch.": "chapter", "vol.": "volume", "eq.": "equation",
    "no.": "number", "rm.": "room", "hwy": "Highway", "rte": "Route", "rte.": "Route",
    "tel.": "telephone", "min.": "minimum", "max.": "maximum",
}  # fmt: skip
_STREETS = {
    "st": "Street", "dr": "Drive", "ave": "Avenue", "av": "Avenue", "blvd": "Boulevard",
    "rd": "Road", "ln": "Lane", "ct": "Court", "pl": "Place",
    "sq": "Square", "hwy": "Highway", "pkwy": "Parkway", "ter": "Terrace", "cir": "Circle",
}  # fmt: skip
_STREET_NAMES = frozenset(name.lower() for name in _STREETS.values())
_DIRECTIONS = {
    "N": "North", "S": "South", "E": "East", "W": "West", "NE": "Northeast", "NW": "Northwest",
    "SE": "Southeast", "SW": "Southwest",
}  # fmt: skip
_BEFORE_STREETS = word_set("dr. on at to from of near along down up off onto past the")
_ALSO_TITLES = frozenset({"st", "dr"})
_MAY_END = frozenset({"a.m.", "p.m.", "etc.", "dept.", "est."})
_NO_STREETS = word_set("the mount mt fort ft port lake and")  # they come before a saint's name
_INITIALS = re.compile(r"(?:[A-Z]\.)+[A-Z]")
_SENTENCE_OPENERS = word_set(
    "The This That These Those He She It They We You I But And So Then There Here In On At If "
    "When What Who Why How A An My Our Your His Her Its Their Please Yes No Now"
)
_PLURAL = re.compile(r"([A-Z]{1,5})('?s)$")
_SPELLED = word_set(
    "MBA MBAs EIN DOB HOA PTO ROI SLA SDK USD FDA CDC EPA NSA PO AI API APIs APR CPU CPUs GPU GPUs"
    " UI UX ID IDs URL URLs USA UK EU UN FAQ OS PIN IP IPO "
    "CEO CFO CTO COO USB IBM FBI CIA NBA NFL AWS EV EVs IQ DIY ETA ATM IOU LLM LLMs AC UPS "
    "DNA RNA SQL UFO AT&T R&D Q&A B&B BBC CNN DVD VIP HIV ISP SEO SUV GPA MRI VAT OTP IBAN "
    "ISBN APY IRA IRS EMI AKA KPI CLI IDE NYU UAE ABC EOD RSVP HR PR TV PC"
    " FY CI CD NYC OMG FYI TGIF EFT"
)
_ONLY_STRESSED = word_set("AM IT US OR IN IS AN AS AT ON OF SO NO ME WE HE DO GO UP MY PM")
_IT_WORDS = word_set(
    "department support team manager staff admin administrator service industry specialist "
    "professional company infrastructure security consultant desk help job sector "
    "system guy people budget project skill expert career issue"
)
_US_BEFORE = frozenset(["the", "a", "across", "non", "current", "former", "every"])
_US_AFTER = word_set(
    "dollar dollars president government economy army citizen citizens market markets "
    "senate congress customers based residents"
)
_SCALES = {"C": "Celsius", "F": "Fahrenheit", "K": "Kelvin"}
_SOUNDS = re.compile(r"S+H+|P+S+T+|H?M+H?M+|H+M+|B+R+R+|G+R+R+|P+F+T+|T+S+K+|Z+|N+H+|S+S+|P+H+")
_SPECIAL = {
    "C++": "C plus plus", ".NET": "dot net", "A/B": "A B", "Ph.D": "P H D", "Ph.D.": "P H D",
    "PhD": "P H D",
    "B2B": "B to B", "WiFi": "WiFi", "Node.js": "node J S", "km/h": "kilometers per hour",
    "WWI": "World War one", "WWII": "World War two",
}  # fmt: skip


class Letters:
    """Reads the words of one utterance that have no figures."""

    def __init__(self, text: Text) -> None:
        self._text = text
        self._english = text.language.code == "en"
        self._shouted: bool | None = None

    def read(self, word: str, place: int) -> str:
        """A whole word with its marks as it is spoken."""
        if HAS_CJK.match(word):
            return word
        match = _EDGES.match(word)
        if match is None or not (word[0].isupper() or not word.isalpha() or len(word) < 4):
            return word
        head, core, tail = match.groups()
        at = place + len(head)
        if said := self._numeral(core, tail, at):
            return f"{head}{said}"
        if not self._english:
            return word
        stop = "." if core.endswith(".") and not tail else ""
        if said := self._abbreviation(core, at, stop):
            return f"{head}{said}{tail}"
        bare = core.removesuffix(".")
        if bare in _DIRECTIONS and (said := self._direction(bare, at, place + len(word))):
            return f"{head}{said}{tail}"
        for name in (core, bare):
            if name in _SPECIAL:
                return f"{head}{_SPECIAL[name]}{core[len(name) :] if name == bare else ''}{tail}"
        if said := calendar_word(self._text, bare, at, dotted=bool(stop)):
            return f"{head}{said}{tail}"
        before = self._text.word_before(at)
        if (
            tail == ""
            and bare in STATES
            and before[:1].isupper()
            and self._before_zip(at + len(core))
        ):
            return f"{head}{STATES[bare]}"
        said = self._stressed(bare, at) or self.acronym(bare) or self._symbol(bare, at)
        if said is None:
            return word
        if (
            core != bare
            and _INITIALS.fullmatch(bare)
            and not self._ends_with_initials(place + len(word))
        ):
            return f"{head}{said}{tail}"
        return f"{head}{said}{core[len(bare) :]}{tail}"

    def _ends_with_initials(self, end: int) -> bool:
        """Whether the stop of "U.S." ends a sentence, too: "the U.S. Army", but "the U.S. He"."""
        after = self._text.word_after(end)
        return not after or (self._text.ends_sentence(end) and after in _SENTENCE_OPENERS)

    def _direction(self, bare: str, at: int, end: int) -> str | None:
        """ "123 N. Main St.": between a house number and a street."""
        name = _DIRECTIONS.get(bare)
        if name is None or not self._text.word_before(at)[-1:].isdigit():
            return None
        following = self._text.text[end : end + 48].split()[:4]
        streets = (word.strip(".,;:!?").lower() for word in following[1:])
        return name if any(word in _STREETS or word in _STREET_NAMES for word in streets) else None

    def acronym(self, core: str) -> str | None:
        """Letter by letter, if it is not a word: IBM, IBM's, GPUs, U.S.A."""
        if not self._english:
            return None
        if core in _SPELLED:
            plural = core.endswith("s")
            return " ".join(c for c in core.rstrip("s") if c != ".") + ("s" if plural else "")
        if (plural_of := _PLURAL.fullmatch(core)) and (
            plural_of[1] in _SPELLED
            or _consonants(plural_of[1])
            or (plural_of[2] == "'s" and self.acronym(plural_of[1]))
        ):
            return " ".join(plural_of[1]) + plural_of[2]
        if _consonants(core) and not _SOUNDS.fullmatch(core):
            return " ".join(core)
        if core.endswith("'s") and _INITIALS.fullmatch(core[:-2].rstrip(".")):
            return core[:-2].replace(".", " ").strip() + "'s"
        if _INITIALS.fullmatch(core):
            return core.replace(".", " ").strip()
        return None

    def _numeral(self, core: str, tail: str, at: int) -> str | None:
        bare = core.removesuffix("'s").removesuffix(".")
        if not bare or bare[0] not in "IVXLCM":
            return None
        said = roman.read(self._text, bare, at)
        if said is None:
            return None
        behind = core[len(bare) :] if not tail or "'" in core else ""
        if (
            behind == "."
            and self._text.language.code == "de"
            and not self._text.ends_sentence(at + len(core))
        ):
            behind = ""
        return f"{said}{behind}{tail}"

    def _abbreviation(self, core: str, at: int, stop: str) -> str | None:
        lower = core.lower()
        end = at + len(core)
        street = _STREETS.get(lower.rstrip("."))
        if (
            street
            and core[:1].isupper()
            and self._is_street(lower.rstrip("."), at, end, dotted=core.endswith("."))
        ):
            return street + (stop if stop and self._text.ends_sentence(end) else "")
        after = self._text.word_after(end)
        if lower in _BEFORE_FIGURES and after[:1].isdecimal():
            return _BEFORE_FIGURES[lower]
        if lower in _BEFORE_NAMES and core[0].isupper() and after[:1].isupper():
            return _BEFORE_NAMES[lower]
        if (
            lower in _BEHIND_NAMES
            and core[0].isupper()
            and self._text.word_before(at)[:1].isupper()
        ):
            return _BEHIND_NAMES[lower] + (stop if self._text.ends_sentence(end) else "")
        said = _ABBREVIATIONS.get(lower)
        if said is None or (
            lower in ("dr", "mr", "mrs", "ft.") and not self._text.word_after(end)[:1].isupper()
        ):
            return None
        return said + (stop if lower in _MAY_END and self._text.ends_sentence(end) else "")

    def _is_street(self, name: str, at: int, end: int, *, dotted: bool) -> bool:
        """ "Baker St. in London", "12 Maple Dr": after a name, and without a name after it, or with
        a house number."""
        before, after = self._text.word_before(at), self._text.word_after(end)
        apart = self._text.text[at - 2 : at] == ", "  # "Fort Worth, St. Louis"
        if (
            apart
            or not (before[:1].isupper() or before[:1].isdecimal())
            or (name == "st" and before.lower() in _NO_STREETS)
        ):
            return name == "st" and dotted and not after[:1].isupper()
        if name in _ALSO_TITLES and before.isdecimal() and after[:1].isupper():
            return False  # "5 St. John's Rd."
        numbered = self._numbered(at)
        if name not in _ALSO_TITLES:
            return numbered or dotted or name in ("blvd", "hwy", "pkwy")
        direct = self._text.goes_on(end)
        if name == "st" and dotted:
            return not (direct and after[:1].isupper()) or before.lower() not in _NO_STREETS
        if after:
            return numbered or (dotted and not after[:1].isupper())
        return numbered or (dotted and self._text.before(at, 2)[0] in _BEFORE_STREETS)

    def _numbered(self, at: int) -> bool:
        """Whether a house number comes before it in the same sentence."""
        for word in reversed(self._text.text[max(0, at - 48) : at].split()[-4:]):
            if word[:1].isdecimal():
                return True
            if word[-1:] in ".!?" and len(word) > 2:
                return False
        return False

    def _before_zip(self, end: int) -> bool:
        return re.fullmatch(r"\d{5}(?:-\d{4})?\.?", self._text.word_after(end)) is not None

    def _stressed(self, core: str, at: int) -> str | None:
        """Capitals that only stress a word are spoken as the word; "IT" and "US" may be names,
        too."""
        if not core.isupper():
            return None
        if _SOUNDS.fullmatch(core):
            return core.lower() if len(core) > 2 or core in ("SH", "HM", "MM") else None
        end = at + len(core)
        before, after = self._text.word_before(at), self._text.word_after(end)
        if core in ("AM", "PM") and before[-1:].isdecimal():
            return " ".join(core)
        if core == "IT" and (
            after.lower().rstrip(".").removesuffix("s") in _IT_WORDS
            or (before.lower() in ("in", "our", "your") and not self._text.goes_on(end))
        ):
            return "I T"
        if core == "US" and not self._shouting() and self._is_country(before, after, at, end):
            return "U S"
        if core in _ONLY_STRESSED:
            return core.lower()
        if self._shouting() and core not in _SPELLED and len(core) > 3:
            return core.lower()
        return None

    def _shouting(self) -> bool:
        """Whether the whole utterance is in capitals."""
        if self._shouted is None:
            words = [word for word in self._text.text.split() if sum(c.isalpha() for c in word) > 1]
            self._shouted = len(words) > 2 and all(word.isupper() for word in words)
        return self._shouted

    def _is_country(self, before: str, after: str, at: int, end: int) -> bool:
        return (
            before.lower() in _US_BEFORE
            or after.lower() in _US_AFTER
            or after.startswith("-based")
            or (before.lower() == "in" and not self._text.goes_on(end))
            or self._text.begins(at)
            or self._beside_acronym(before, after, at)
        )

    def _beside_acronym(self, before: str, after: str, at: int) -> bool:
        """ "US and UK", "the EU and US"."""
        if after in ("and", "or", "&"):
            after = self._text.word_after(at + len(after) + 3)
        if before in ("and", "or", "&"):
            before = self._text.text[max(0, at - 24) : at].split()[-2:][0].strip(",")
        return after in _SPELLED or before in _SPELLED

    def _symbol(self, core: str, at: int) -> str | None:
        """ "20 degrees C", a note or a mark: "F#", "A-"."""
        if core in _SCALES and self._text.before(at)[-1:] in (["degrees"], ["degree"]):
            return _SCALES[core]
        if len(core) == 2 and core[0] in "ABCDEFG" and core[1] in "#-":
            return f"{core[0]} {'sharp' if core[1] == '#' else 'minus'}"
        return None


def _consonants(core: str) -> bool:
    return (
        2 <= len(core) <= 5
        and core.isascii()
        and core.isalpha()
        and core.isupper()
        and not any(c in "AEIOUY" for c in core)
    )
