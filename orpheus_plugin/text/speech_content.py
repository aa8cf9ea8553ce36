"""Whether there is anything to speak in a text: an audio context opened for nothing is a failure to
Pipecat."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from orpheus_plugin.text.cutter import ENGLISH_TAGS, TextOptions, UtteranceCutter

HEAD_CHARS = 500
"""Characters in which there is nearly always something to speak; no more are looked at, so that no
call takes long."""

_SILENT = frozenset({"Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Co", "Cn", "Mn", "Me", "So", "Sk"})
"""Unicode categories with nothing to speak in them."""


def is_sayable(text: str, tags: Iterable[str]) -> bool:
    """Whether a whole sentence holds anything to speak, or a sound of a model with these emotion
    tags.

    A text longer than `HEAD_CHARS` counts as sayable where its beginning does not tell. Cost: at
    most 5 ms.
    """
    known = frozenset(tags) or ENGLISH_TAGS  # a server's are not known before the first connection
    cutter = UtteranceCutter(TextOptions(tags=known, spell_numbers=False))
    cutter.add(text[:HEAD_CHARS])
    cutter.end_piece()
    return len(text) > HEAD_CHARS or cutter.take() is not None


def may_be_sayable(piece: str) -> bool:
    """Whether a piece of a sentence, whose other pieces are yet to come, may hold something to
    speak."""
    return any(unicodedata.category(character) not in _SILENT for character in piece)
