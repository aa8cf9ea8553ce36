"""Emotion tags: `<laugh>` is spoken as a sound, never as a word. Each model knows its own tags.

Stage directions (`*sighs*`, `(laughs)`) become the model's tag of that sound, or nothing if it has
none.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

from orpheus_plugin.text.directions import DIRECTION, direction, open_direction, sounds_of

logger = logging.getLogger(__name__)

ENGLISH_TAGS = frozenset({"laugh", "chuckle", "sigh", "cough", "sniffle", "groan", "yawn", "gasp"})
TAG_HOLDER = "\ufdd0"
"""Stands for a tag in text from which tags were taken; a code point that is never a character."""

_TAG = re.compile(r"<(?P<angled>/?[^\W\d_][^<>\n]{0,60})>|\[(?P<square>[^\[\]<>\n]{1,30})\](?!\()")
_OPEN_TAG = re.compile(r"<(?:/|[^\W\d_]|$)[^<>\n]{0,60}$")
_INLINE = (
    "a abbr b big code del em font i ins kbd mark q s samp small span strike strong sub sup tt u"
    " var"
)
_BLOCK = (
    "article blockquote body br center dd div dl dt footer h1 h2 h3 h4 h5 h6 head header hr html"
    " img li main nav ol p "
    "pre script section style table tbody td th thead title tr ul"
)
_INLINE_HTML = frozenset(_INLINE.split())
_BLOCK_HTML = frozenset(_BLOCK.split())
_warned: set[str] = set()


class TagExtractor:
    """Finds tags in text and separates those the model knows from others."""

    def __init__(self, known: Iterable[str]) -> None:
        self._known = {tag.casefold(): tag for tag in known}

    def extract(self, text: str) -> tuple[str, list[str]]:
        """The text with a holder for each known tag, and those tags. Unknown tags are left out."""
        found: list[str] = []

        def replace(match: re.Match[str]) -> str:
            name = (match["angled"] or match["square"]).strip("/ ").casefold()
            tag = self._tag(name, sounds_of(name) or ())
            if tag is not None and not match[0].startswith("</"):
                found.append(f"<{tag}>")
                return TAG_HOLDER
            if match["square"]:
                return match[0]
            if "@" in name or "://" in name:
                return match["angled"]
            return _without(name, known=tag is not None or sounds_of(name) is not None)

        def direct(match: re.Match[str]) -> str:
            sounds = direction(match)
            if sounds is None:
                return match[0]
            tag = self._tag("", sounds)
            return f"<{tag}>" if tag else " "

        text = text.replace(TAG_HOLDER, "")
        if any(mark in text for mark in "*([_~"):
            text = DIRECTION.sub(direct, text)
        return _TAG.sub(replace, text), found

    def _tag(self, name: str, sounds: Iterable[str]) -> str | None:
        names = (name, name.removesuffix("s"), *sounds)
        return next((self._known[n] for n in names if n in self._known), None)


def may_cut(text: str, place: int) -> bool:
    """Whether a cut at this place certainly does not fall into a tag or a stage direction."""
    start = max(0, place - 64)
    return _OPEN_TAG.search(text, start, place) is None and not open_direction(text, start, place)


def _without(name: str, *, known: bool) -> str:
    """The replacement of an unknown tag: nothing inside a word (`H<sub>2</sub>O`), else a space."""
    word = name.split(maxsplit=1)[0] if name else ""
    if word in _INLINE_HTML:
        return ""
    if not known and word not in _BLOCK_HTML and name not in _warned and len(_warned) < 256:
        _warned.add(name)
        logger.warning("the model has no <%s> tag; it is left out", name[:32])
    return " "
