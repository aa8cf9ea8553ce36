"""The expected length of a word and of the pause after it, from its letters and marks alone."""

from __future__ import annotations

import re
import unicodedata

from orpheus_plugin.text.utterance import SpokenWord

_VOWELS = re.compile(r"[aeiouyаеёиоуыэюя]+")
_UNSTRESSED_LIST = (
    "the a an of to in and is it i you he his her for that was on at with as or but be are my your"
    " their she they we by from"
)
_UNSTRESSED = frozenset(_UNSTRESSED_LIST.split())
_BIG_PAUSE = re.compile(r"[.!?…。！？｡؟।॥][\"'”’)\]]*$")
_SMALL_PAUSE = re.compile(r"[,;:，；：、،؛][\"'”’)\]]*$")


def spoken_length(word: SpokenWord) -> float:
    """Expected seconds of a word without pauses, at the default speaking rate."""
    return sum(_part_length(part) for part in word.spoken.split()) or 0.05


def _part_length(part: str) -> float:
    seconds = 0.0
    latin = ""
    for c in part.lower():
        if not c.isalnum():
            continue
        if "\u3040" <= c <= "\u30ff" or "\u3400" <= c <= "\u9fff":
            seconds += 0.2
        elif "\uac00" <= c <= "\ud7a3":
            seconds += 0.17
        elif c.isdigit():
            seconds += 0.3
        elif "\u0900" <= c <= "\u0dff":
            seconds += 0.11
        else:
            latin += c
    if latin:
        plain = unicodedata.normalize("NFD", latin) if not latin.isascii() else latin
        syllables = len(_VOWELS.findall(plain))
        if syllables > 1 and plain.endswith("e") and not plain.endswith(("le", "ee")):
            syllables -= 1
        if syllables > 1 and re.search(r"[^td]ed$", plain):
            syllables -= 1
        seconds += 0.06 + 0.07 * max(1, syllables) + 0.03 * len(latin)
        if latin in _UNSTRESSED:
            seconds -= 0.075
    return seconds


def pause_after(spoken: str) -> int:
    """2 for the pause of a full stop, 1 for that of a comma, else 0."""
    if _BIG_PAUSE.search(spoken):
        return 2
    return 1 if _SMALL_PAUSE.search(spoken) else 0
