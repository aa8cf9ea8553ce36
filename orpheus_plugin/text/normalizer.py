"""What is said for each written word: markdown, links, symbols and emoji become speech or silence.

Works on the words of one utterance at a time and keeps one word of output for each word of input, so that a
transcript never loses its place.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from orpheus_plugin.text.spelling import spell

_STRAIGHT = str.maketrans(
    {
        **dict.fromkeys("“”„‟«»″", '"'),
        **dict.fromkeys("‘’‚‛′`´", "'"),
        **dict.fromkeys("‐‑", "-"),
        "…": "...",
        "−": "-",
    }
)
_CODE_FENCE = re.compile(r"```")
_TILDE_FENCE = re.compile(r"~~~\w*")
_RULE = re.compile(r"[-=*_|:~#+>•·▪]+")
_LINE_MARK = re.compile(r"(?:[-+*•·▪>#|]+|\$)")
_EMOTICON = re.compile(r"[:;=8][-'o^]?[()\[\]DPpOo|\\*]+|<+/?3+|[xX]D+|\^_*\^|[oO]_[oO]|-_+-")
_LINK = re.compile(r"!?\[([^\[\]]*)\]\([^()]*\)")
_LINK_TAIL = re.compile(r"\]\([^()\s]*\)?")
_FOOTNOTE = re.compile(r"\[\^?\d{1,3}\]")
_URL = re.compile(r"(?:https?://|ftp://|www\.)[^\s<>\"]+", re.IGNORECASE)
_BARE_DOMAIN = re.compile(
    r"\b(?:[a-z0-9][a-z0-9-]*\.)+(?:com|org|net|io|ai|dev|app|co|edu|gov|info|me|tv|uk|de|fr|es|it|eu|us|ca|in|cn|jp|kr|"
    r"txt|md|py|js|ts|json|csv|pdf|html|yaml|zip|png|jpg)"
    r"(?:/[^\s<>\"]*)?(?![\w@.-]*\w)",
    re.IGNORECASE,
)
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_SPOKEN_MARKS = ".,!?;:。！？，；：、।॥؟،؛۔"
_PUNCTUATION_ONLY = re.compile(r"[^\w]*")
_ENDS_PAUSED = re.compile(rf"[{re.escape(_SPOKEN_MARKS)}][\"')\]]*$")
# dot, slash, at, dash, underscore as they are read in an address
_ADDRESS = {
    "en": ("dot", "slash", "at", "dash", "underscore"),
    "de": ("Punkt", "Schrägstrich", "ät", "minus", "Unterstrich"),
    "fr": ("point", "barre oblique", "arobase", "tiret", "tiret bas"),
    "es": ("punto", "barra", "arroba", "guion", "guion bajo"),
    "it": ("punto", "barra", "chiocciola", "trattino", "trattino basso"),
}
_SYMBOLS = {
    "en": {
        "&": "and", "@": "at", "+": "plus", "=": "equals", "<": "less than", ">": "greater than",
        "≤": "at most", "≥": "at least", "≈": "about", "≠": "is not equal to", "±": "plus or minus",
        "×": "times", "÷": "divided by", "→": "to", "->": "to", "=>": "to", "<=": "at most", ">=": "at least", "&&": "and", "==": "equals", "!=": "is not",
        "√": "square root of",
        "∞": "infinity", "π": "pi", "§": "section", "²": "squared", "³": "cubed", "%": "percent",
    },
    "de": {"&": "und", "@": "ät", "+": "plus", "=": "gleich", "%": "Prozent", "×": "mal"},
    "fr": {"&": "et", "@": "arobase", "+": "plus", "=": "égale", "%": "pour cent", "×": "fois"},
    "es": {"&": "y", "@": "arroba", "+": "más", "=": "igual a", "%": "por ciento", "×": "por"},
    "it": {"&": "e", "@": "chiocciola", "+": "più", "=": "uguale a", "%": "per cento", "×": "per"},
}  # fmt: skip
_LONE_CURRENCIES = {
    "en": {"€": "euros", "$": "dollars", "£": "pounds", "₹": "rupees", "¥": "yen"},
    "de": {"€": "Euro", "$": "Dollar", "£": "Pfund"},
    "fr": {"€": "euros", "$": "dollars", "£": "livres"},
    "es": {"€": "euros", "$": "dólares", "£": "libras"},
    "it": {"€": "euro", "$": "dollari", "£": "sterline"},
    "ko": {"₩": "원", "$": "달러", "€": "유로"},
}
_NO_SYMBOLS: dict[str, str] = {}
_BETWEEN_NUMBERS = {"en": {"*": "times", "/": "divided by"}}
_KEYS = {"en": {"*": "star", "#": "pound"}}
_KEY_LIST = "press presses pressing push hit dial enter type the or and then by with use key"
_BEFORE_KEY = frozenset(_KEY_LIST.split())


class Token(NamedTuple):
    """A written word; whether it begins a line, and whether that line is a new sentence without a mark before it."""

    written: str
    line_start: bool = False
    new_item: bool = False


class Reader:
    """Turns written words into spoken ones, remembering from call to call whether it is inside a block of code."""

    def __init__(self, *, language: str = "en", spell_numbers: bool = True) -> None:
        self._language = language.split("-")[0].lower()
        self._spell_numbers = spell_numbers
        self._symbols = _SYMBOLS.get(self._language, _NO_SYMBOLS)
        self._lone = self._symbols | _LONE_CURRENCIES.get(self._language, _NO_SYMBOLS)
        self._in_operation = _BETWEEN_NUMBERS.get(self._language, _NO_SYMBOLS)
        self._keys = _KEYS.get(self._language, _NO_SYMBOLS)
        self._in_code = False

    def read(self, tokens: Sequence[Token]) -> list[str]:
        """One reading for each word; "" where there is nothing to say."""
        spoken: list[str] = []
        last = -1  # index of the last word with a reading
        new_item = False
        for index, token in enumerate(tokens):
            said = self._lone_mark(tokens, index)
            if said is None:
                said = self._clean(token.written, token.line_start)
            new_item = new_item or token.new_item
            if said and not any(c.isalnum() for c in said):
                mark = _first_mark(said)
                if mark and last >= 0:
                    spoken[last] = _with_mark(spoken[last], mark)
                said = ""
            elif said and last >= 0 and (new_item or said.startswith("(")):
                spoken[last] = _with_mark(spoken[last], "." if new_item else ",")
            if said:
                new_item = False
                last = len(spoken)
            spoken.append(said)
        spoken = [_without_brackets(said, index == last) for index, said in enumerate(spoken)]
        if self._spell_numbers:
            spoken = spell(spoken, self._language)
        return [_tidy(self._name_symbols(said)) for said in spoken]

    def _lone_mark(self, tokens: Sequence[Token], index: int) -> str | None:
        """What a mark on its own means by its neighbours: "3 * 4", "press #.", "Settings > Account"."""
        written = tokens[index].written
        mark = written.strip("\"'“”‘’`()[].,;:!?")
        if mark not in ("*", "#", "/", ">") or tokens[index].line_start or self._in_code:
            return None
        before = tokens[index - 1].written if index else ""
        after = tokens[index + 1].written if index + 1 < len(tokens) else ""
        if before[-1:].isdecimal() and after[:1].isdecimal():
            return self._in_operation.get(mark)
        if mark == ">":
            path = all(sum(c.isalpha() for c in side) > 1 for side in (before, after))
            return "," if path else None
        if before.lower() in _BEFORE_KEY and mark in self._keys:
            return self._keys[mark] + written[written.index(mark) + 1 :].lstrip("\"'”’`)]")
        return None

    def _clean(self, written: str, line_start: bool) -> str:
        text = written
        if len(_CODE_FENCE.findall(text)) % 2 or (line_start and _TILDE_FENCE.fullmatch(text)):
            self._in_code = not self._in_code
            return ""
        if self._in_code:
            return ""
        if line_start and _LINE_MARK.fullmatch(text):
            return ""
        if _EMOTICON.fullmatch(text):
            return ""
        if "&" in text and ";" in text:
            text = html.unescape(text)
        text = _LINK.sub(r"\1", text)
        text = _LINK_TAIL.sub("", text)
        text = _FOOTNOTE.sub("", text)
        text = self._say_addresses(text)
        text = text.replace("`", "")
        text = "".join(_plain(text)).translate(_STRAIGHT)
        bare = text.rstrip(",.;:!?")
        if bare in self._lone:
            return self._lone[bare] + text[len(bare) :]
        if _RULE.fullmatch(text) or text in ("–", "—"):
            return ":" if text == ":" else "," if text in ("-", "--", "–", "—", "|") else ""
        return _unmarked(text)

    def _say_addresses(self, text: str) -> str:
        if "." not in text:
            return text
        words = _ADDRESS.get(self._language, _ADDRESS["en"])
        trail = re.search(r"[.,;:!?)\]\"'”’*_]*$", text)
        tail = trail[0] if trail else ""
        body = text[: len(text) - len(tail)]
        for pattern in (_URL, _EMAIL, _BARE_DOMAIN):
            body, found = pattern.subn(lambda match: _address(match[0], words), body)
            if found:
                break
        return body + tail

    def _name_symbols(self, text: str) -> str:
        if text.isascii() and text.replace(" ", "").isalpha():
            return text
        return "".join(f" {self._symbols[c]} " if c in self._symbols else c for c in text)


def _address(url: str, words: tuple[str, str, str, str, str]) -> str:
    dot, slash, at, dash, underscore = words
    url = re.sub(r"^(?:\w+://)?(?:www\.)?", "", url, flags=re.IGNORECASE)
    url = re.split(r"[?#]", url, maxsplit=1)[0].rstrip("/")
    host, _, path = url.partition("/")
    if len(path) > 32 or re.search(r"\d{3}|%", path):
        path = ""  # nobody wants to hear an identifier
    full = f"{host}/{path}" if path else host
    for mark, word in ((".", dot), ("/", slash), ("@", at), ("-", dash), ("_", underscore)):
        full = full.replace(mark, f" {word} ")
    return " ".join(full.split())


def _plain(text: str) -> list[str]:
    """Characters that can be read: no emoji, no control or zero-width characters; look-alike letters made plain."""
    if text.isascii():
        return [c for c in text if c.isprintable()]
    out: list[str] = []
    for index, c in enumerate(text):
        category = unicodedata.category(c)
        if c in "\u200c\u200d":  # joiners that belong to a script, not to an emoji
            around = text[index - 1 : index] + text[index + 1 : index + 2]
            if len(around) == 2 and all(unicodedata.category(a)[0] in "LM" for a in around):
                out.append(c)
        elif (
            category[0] == "C"
            or c in "\ufe0e\ufe0f\u20e3"
            or (category in ("So", "Sk") and c != "°")
        ):
            continue
        elif category[0] in "LN" and c not in "²³½¼¾":
            out.append(unicodedata.normalize("NFKC", c))
        else:
            out.append(c)
    return out


def _unmarked(text: str) -> str:
    """Without markdown's marks; dashes and slashes between words as pauses and spaces."""
    text = re.sub(r"(?<=\d)\s*\*\s*(?=\d)", "×", text)
    text = text.replace("~~", "").replace("*", "")
    text = re.sub(r"\\(?=[^\w\s])", "", text).replace("\\", " ")
    text = re.sub(r"^([\"'(]*)_+|_+([\"').,!?;:]*)$", r"\1\2", text).replace("_", " ")
    text = re.sub(r"(?<=\d)[–—](?=\d)", "-", text)
    text = re.sub(r"^[—–]+(?=[^\W\d]|[¿¡\"'])|[—–]+(?=[,.;:!?])", "", text)  # of a dialogue
    text = re.sub(r"—+|(?<=\w)--+(?=\w)|(?<=\w)\|(?=\w)", ", ", text).replace("–", "-")
    text = re.sub(r"(?<=[^\W\d]{2})/(?=[^\W\d]{2})", " ", text)
    text = re.sub(r"^[-+]+(?=[^\W\d])", "", text)
    text = re.sub(r"#(?=[^\W\d])", " ", text).replace("|", " ")
    text = re.sub(r"([!?])\1+", r"\1", text)
    text = re.sub(r"\.{4,}", "...", text)
    text = re.sub(r"(?<=\w)[:;]-?[)(DP]$|~+(?!\d)", "", text)
    return text.strip()


def _without_brackets(text: str, is_last: bool) -> str:
    text = re.sub(r"^!?[(\[{<]+|[\[{]", "", text)
    if ")" in text and "(" not in text:
        text = re.sub(r"\)+$", "" if is_last else ",", text)
        text = re.sub(r"\)+(?=[.,!?;:])", "", text)
    return re.sub(r"[\]}]", "", text)


def _first_mark(text: str) -> str:
    return next((c for c in text if c in _SPOKEN_MARKS), "")


def _with_mark(text: str, mark: str) -> str:
    return text if _ENDS_PAUSED.search(text) else text + mark


def _tidy(text: str) -> str:
    text = " ".join(text.split())
    text = re.sub(r"\s+(?=[,.;:!?])", "", text)
    return text if any(c.isalnum() for c in text) else ""
