"""Whether there is anything to say in a text: an audio context opened for nothing is a failure to Pipecat."""

from __future__ import annotations

import unicodedata

from orpheus_plugin.text.cutter import ENGLISH_TAGS, TextOptions, UtteranceCutter
from orpheus_plugin.turn import SpeechEngine

HEAD_CHARS = 100
"""Characters in which there is nearly always something to say."""

_SILENT = frozenset({"Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Co", "Cn", "Mn", "Me", "So", "Sk"})
"""Unicode categories with nothing to say in them."""


def text_options(engine: SpeechEngine) -> TextOptions:
    """As this engine cuts text, as far as it matters here."""
    return TextOptions(tags=frozenset(engine.tags) or ENGLISH_TAGS, spell_numbers=False)


def is_sayable(text: str, options: TextOptions) -> bool:
    """For whole sentences. Long text is not looked through on the agent's loop: its beginning nearly always tells."""
    head = text[:HEAD_CHARS].rpartition(" ")[0] if len(text) > HEAD_CHARS else ""
    for part in (head, text):
        cutter = UtteranceCutter(options)
        if cutter.push(part) or cutter.flush():
            return True
    return False


def may_be_sayable(piece: str) -> bool:
    """For a piece of a sentence, whose other pieces are yet to come."""
    return any(unicodedata.category(character) not in _SILENT for character in piece)
