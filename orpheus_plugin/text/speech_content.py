"""Whether there is anything to speak in a text: Pipecat takes an audio context without audio for a
failure."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from orpheus_plugin.text.cutter import ENGLISH_TAGS, TextOptions, UtteranceCutter

HEAD_CHARS = 500
"""Characters in which there is nearly always something to speak. No more are read, so that no call
takes long."""

_SILENT = frozenset({"Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Co", "Cn", "Mn", "Me", "So", "Sk"})
"""Unicode categories with nothing to speak in them."""


def is_sayable(text: str, tags: Iterable[str]) -> bool:
    """Whether a whole sentence has anything to speak, or a sound of a model with these emotion
    tags.

    A text longer than `HEAD_CHARS` counts as sayable if its beginning does not decide it. Cost: at
    most 5 ms.
    """
    known = (
        frozenset(tags) or ENGLISH_TAGS
    )  # a server's tags are not known before the first connection
    cutter = UtteranceCutter(TextOptions(tags=known, spell_numbers=False))
    cutter.add(text[:HEAD_CHARS])
    cutter.end_piece()
    return len(text) > HEAD_CHARS or cutter.take() is not None


def may_be_sayable(piece: str) -> bool:
    """Whether a piece of a sentence whose other pieces are still to come may have something to
    speak."""
    return any(unicodedata.category(character) not in _SILENT for character in piece)
