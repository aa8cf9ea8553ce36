"""Streamed text into utterances, and numbers and signs into words.

cutter = UtteranceCutter(TextOptions(language="en"))
cutter.push("It costs $5"), cutter.flush()   # lists of Utterance
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orpheus_plugin.text.cutter import TextOptions, UtteranceCutter
    from orpheus_plugin.text.pronunciations import Pronunciations
    from orpheus_plugin.text.utterance import SpokenWord, Utterance

_HOME = {
    "Pronunciations": "pronunciations",
    "SpokenWord": "utterance",
    "TextOptions": "cutter",
    "Utterance": "utterance",
    "UtteranceCutter": "cutter",
}

__all__ = ["Pronunciations", "SpokenWord", "TextOptions", "Utterance", "UtteranceCutter"]


def __getattr__(name: str) -> Any:
    """Load a name's module when it is first used: a client of a server needs no sentence
    splitter."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
