"""Emotion tags: `<laugh>` is a sound to make, never a word to read. Each model knows its own."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

logger = logging.getLogger(__name__)

ENGLISH_TAGS = frozenset({"laugh", "chuckle", "sigh", "cough", "sniffle", "groan", "yawn", "gasp"})
TAG_HOLDER = "\ufdd0"
"""Stands for a tag in text from which tags were lifted; a code point that is never a character."""

_TAG = re.compile(r"<(/?[^\W\d_][^<>\n]{0,60})>|\[([^\[\]<>\n]{1,30})\](?!\()")
_OPEN_TAG = re.compile(r"<(?:/|[^\W\d_]|$)[^<>\n]{0,60}$")
_INLINE = "a abbr b big code del em font i ins kbd mark q s samp small span strike strong sub sup tt u var"
_BLOCK = (
    "article blockquote body br center dd div dl dt footer h1 h2 h3 h4 h5 h6 head header hr html img li main nav ol p "
    "pre script section style table tbody td th thead title tr ul"
)
_INLINE_HTML = frozenset(_INLINE.split())
_BLOCK_HTML = frozenset(_BLOCK.split())
_warned: set[str] = set()


class TagLifter:
    """Tells the tags a model knows from those it does not, and both from text."""

    def __init__(self, known: Iterable[str]) -> None:
        self._known = {tag.casefold(): tag for tag in known}

    def lift(self, text: str) -> tuple[str, list[str]]:
        """The text with a holder for each known tag, and those tags; foreign ones are left out."""
        lifted: list[str] = []

        def replace(match: re.Match[str]) -> str:
            name = (match[1] or match[2]).strip("/ ").casefold()
            tag = self._known.get(name) or self._known.get(name.removesuffix("s"))
            if tag is not None and not match[0].startswith("</"):
                lifted.append(f"<{tag}>")
                return TAG_HOLDER
            if match[2]:
                return match[0]
            return (
                match[1] if "@" in name or "://" in name else _without(name, known=tag is not None)
            )

        return _TAG.sub(replace, text.replace(TAG_HOLDER, "")), lifted


def may_cut(text: str, place: int) -> bool:
    """Whether a cut at this place is sure not to fall into a tag."""
    return _OPEN_TAG.search(text, max(0, place - 64), place) is None


def _without(name: str, *, known: bool) -> str:
    """What is left of a foreign tag: nothing inside a word (`H<sub>2</sub>O`), else a space."""
    word = name.split(maxsplit=1)[0] if name else ""
    if word in _INLINE_HTML:
        return ""
    if not known and word not in _BLOCK_HTML and name not in _warned and len(_warned) < 256:
        _warned.add(name)
        logger.warning("the model has no <%s> tag; it is left out", name[:32])
    return " "
