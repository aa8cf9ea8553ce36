"""Removes what cannot be spoken: markdown, LaTeX, links, emoji and look-alike characters, one word
at a time.

Cost: a few passes over the word; no pattern reads a character more than a few times, and words are
short.
"""

from __future__ import annotations

import html
import re
import unicodedata

from orpheus_plugin.text.languages import Language

_STRAIGHT = str.maketrans(
    {
        **dict.fromkeys("“”„‟«»″", '"'),
        **dict.fromkeys("‘’‚‛′`´", "'"),
        **dict.fromkeys("‐‑", "-"),
        "…": "...",
        "−": "-",
        "⁄": "/",
    }
)
_LINK = re.compile(r"!?\[([^\[\]]*)\]\([^()]*\)")
_LINK_TAIL = re.compile(r"\]\([^()\s]*\)?")
_FOOTNOTE = re.compile(r"(?<!sqrt)\[\^?\d{1,3}\]")

# LaTeX, with or without its dollars
_FORMULA = re.compile(
    r"^([(\[\"']*)\$\$?(?:(?=[\\A-Za-z])(?=.*[\\^_=$])|(?=\d)(?=.*(?:[\\^_]|\$(?!\d))))|(?<=[\w})^])\$\$?(?=[.,;:!?)\]\"']*$)|\\[()\[\]]"
)
_FRACTION = re.compile(r"\\[dt]?frac\{?|\}\{")
_ROOT = re.compile(r"\\sqrt\[(\d{1,2})\]\{?")
_COMMAND = re.compile(r"\\([A-Za-z]+) ?\{?")
_COMMANDS = {
    "times": "×", "cdot": "×", "div": "÷", "pm": "±", "le": "≤", "leq": "≤", "ge": "≥", "geq": "≥",
    "ne": "≠", "neq": "≠", "approx": "≈",
    "sim": "≈", "pi": "π", "infty": "∞", "to": "→", "rightarrow": "→", "sqrt": "√", "degree": "°",
    "circ": "°", "lt": "<", "gt": ">",
}  # fmt: skip
_SILENT_COMMANDS = frozenset(
    [
        "left",
        "right",
        "big",
        "text",
        "mathrm",
        "mathbf",
        "mathit",
        "textbf",
        "quad",
        "qquad",
        "displaystyle",
        "begin",
        "end",
        "boxed",
    ]
)
_SUPERSCRIPTS = str.maketrans("⁰¹⁴⁵⁶⁷⁸⁹⁻", "01456789-")
_SUPERSCRIPT = re.compile(
    r"(?<=[\w)])[⁰¹⁴⁵⁶⁷⁸⁹⁻][⁰¹²³⁴⁵⁶⁷⁸⁹]*|(?<=[\w)])[²³](?=[⁰¹²³⁴⁵⁶⁷⁸⁹])[⁰¹²³⁴⁵⁶⁷⁸⁹]+"
)
_SQUARES = str.maketrans("²³", "23")
_DEGREE = re.compile(r"(?:(?<=\d)|^)\s?(?:[˚∘]|º(?=\s?[CcFf](?!\w)))")
_KEPT = "²³½¼¾"
_KEPT_SYMBOLS = "°©№^"
_MARKED = re.compile(r"[*~\\_–—|/#]|^[-+]|--|([!?])\1|\.{4}|[:;]-?[)(DP]$")
"""What one of the rules below may change: most words have none of it."""
_TIMES = re.compile(r"(?<=\d)\s*\*\s*(?=\d)")
_ESCAPE = re.compile(r"\\(?=[^\w\s])")
_EMPHASIS = re.compile(r"^([\"'(]*)_+|(?<!_)_+([\"').,!?;:]*)$")
_RANGE = re.compile(r"(?<=\d)[–—](?=\d)")
_DASH_ALONE = re.compile(r"^[—–]+(?=[^\W\d]|[¿¡\"'])|[—–]+(?=[,.;:!?])")  # before direct speech
_PAUSE = re.compile(r"—+|(?<=\w)--+(?=\w)|(?<=\w)\|(?=\w)")
_EITHER = re.compile(r"(?<=[^\W\d]{2})/(?=[^\W\d]{2})")
_BULLET = re.compile(r"^[-+]+(?=[^\W\d])")
_HASHTAG = re.compile(r"#(?=[^\W\d])")
_SHOUT = re.compile(r"([!?])\1+")
_DOTS = re.compile(r"\.{4,}")
_FACE = re.compile(r"(?<=\w)[:;]-?[)(DP]$|~+(?![\d$€£¥₹.])")
_BRACKETS = re.compile(r"[()\[\]{}<>]")
_OPENING = re.compile(r"^(?:!?[(\[{]|<(?![\d.$€£=-]))+|[\[{]")
_CLOSING = re.compile(r"(?<!\))\)+(?=[.,!?;:])")
_AREA_CODE = re.compile(r"\((?:\d{3,5}|0)\)")


def unescaped(text: str) -> str:
    """HTML entities as characters."""
    return html.unescape(text) if "&" in text and ";" in text else text


def without_links(text: str) -> str:
    """The words of links and pictures, without their addresses and without footnote marks."""
    if "[" in text or "]" in text:
        text = _FOOTNOTE.sub("", _LINK_TAIL.sub("", _LINK.sub(r"\1", text)))
    return text


def without_formulas(text: str, language: Language) -> str:
    r"""LaTeX as it is read: `\frac{7}{10}` is "7 over 10"."""
    if "\\" not in text and "$" not in text and "^" not in text and "}{" not in text:
        return text
    if text in language.currencies:  # "US$ 5"
        return text
    if "\\" in text or "}{" in text:
        over = f" {language.over} "
        text = _ROOT.sub(lambda m: f" {_root(m[1], language)} ", text)
        text = _FRACTION.sub(lambda m: over if m[0] == "}{" else "", text)
        text = _FORMULA.sub(r"\1", text)
        text = _COMMAND.sub(_command, text)
        return text.replace("{", "").replace("}", "")
    return _FORMULA.sub(r"\1", text)


def _root(degree: str, language: Language) -> str:
    if language.code != "en":
        return f"{degree} √"
    return "cube root of" if degree == "3" else f"{degree}th root of"


def _command(match: re.Match[str]) -> str:
    name = match[1]
    if name in _COMMANDS:
        return f" {_COMMANDS[name]} " if name != "sqrt" else " √"
    return "" if name in _SILENT_COMMANDS else f" {name} "


def plain(text: str) -> str:
    """Characters that can be read: no emoji, no control or zero-width characters; look-alike
    letters become plain letters."""
    if text.isascii():
        return text if text.isprintable() else "".join(c for c in text if c.isprintable())
    text = text.replace("℃", "°C").replace("℉", "°F")
    text = _DEGREE.sub("°", text)
    text = _SUPERSCRIPT.sub(lambda m: f"^{m[0].translate(_SUPERSCRIPTS).translate(_SQUARES)}", text)
    out: list[str] = []
    for index, c in enumerate(text):
        category = unicodedata.category(c)
        if c in "\u200c\u200d":  # joiners of a script, not of an emoji
            around = text[index - 1 : index] + text[index + 1 : index + 2]
            if len(around) == 2 and all(unicodedata.category(a)[0] in "LM" for a in around):
                out.append(c)
        elif (
            category[0] == "C"
            or c in "\ufe0e\ufe0f\u20e3"
            or (category in ("So", "Sk") and c not in _KEPT_SYMBOLS)
        ):
            continue
        elif category[0] in "LN" and c not in _KEPT and c not in "ºª":
            readable = unicodedata.normalize("NFKC", c)
            if "⁄" in readable and text[index - 1 : index].isdecimal():
                readable = f" {readable}"  # 2⅓
            out.append(readable)
        else:
            out.append(c)
    return "".join(out).translate(_STRAIGHT)


def without_marks(text: str, *, rate: bool = False) -> str:
    """Without markdown's marks; dashes and slashes between words become pauses and spaces, except
    in a rate ("GB/day")."""
    if not _MARKED.search(text):
        return text.strip()
    text = _TIMES.sub("×", text).replace("~~", "").replace("*", "")
    text = _ESCAPE.sub("", text).replace("\\", " ")
    text = _EMPHASIS.sub(r"\1\2", text).replace("_", " ")
    text = _RANGE.sub("-", text)
    text = _DASH_ALONE.sub("", text)
    text = _PAUSE.sub(", ", text).replace("–", "-")
    if not rate:
        text = _EITHER.sub(" ", text)
    text = _BULLET.sub("", text)
    text = _HASHTAG.sub(" ", text).replace("|", " ")
    text = _SHOUT.sub(r"\1", text)
    text = _DOTS.sub("...", text)
    return _FACE.sub("", text).strip()


def without_brackets(text: str, is_last: bool) -> str:
    """Brackets become pauses: "(they say)" is "they say,"."""
    if not _BRACKETS.search(text) or _AREA_CODE.fullmatch(text):
        return text
    text = _OPENING.sub("", text)
    if ")" in text and "(" not in text:
        bare = text.rstrip(")")
        if len(bare) < len(text):
            text = bare if is_last else f"{bare},"
        text = _CLOSING.sub("", text)
    return text.replace("]", "").replace("}", "")
