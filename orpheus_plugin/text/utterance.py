"""Utterances: the model's text together with the written words, and how a long one is divided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from orpheus_plugin.text.scripts import CLAUSE_MARKS, SENTENCE_MARKS, end_mark, last_mark


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """A word as it was written and as it is read out.

    Attributes:
        written: verbatim as it arrived, punctuation included, emotion tags left out.
        spoken: what the model reads for it: several words ("25" -> "twenty five") or none ("😀" ->
            "").
        space_after: whether a space follows in the text; false inside Chinese and inside a word cut
            in two.
        sounds_before: how many emotion tags ("<laugh>") stand directly before it.
    """

    written: str
    spoken: str
    space_after: bool = True
    sounds_before: int = 0


@dataclass(frozen=True, slots=True)
class Utterance:
    """A piece of text that is generated as one: `text` is for the model, `words` for transcripts
    and word times.

    The text always ends in a mark: without one, Orpheus repeats or adds words
    (prakharsr/audiobook-creator pull 13, canopyai/Orpheus-TTS issue 137).
    """

    text: str
    words: tuple[SpokenWord, ...]


def utterances(
    items: list[SpokenWord | str], limit: int, *, within: bool = False
) -> list[Utterance]:
    """Make utterances of at most `limit` characters of words and, as plain strings, emotion tags in
    brackets.

    Each text gets an end mark if it has none: a comma if its sentence continues (with `within` also
    after the last item), else a full stop.
    """
    parts: list[list[SpokenWord | str]] = []
    mute: list[SpokenWord | str] = []
    for part in _divide(items, limit - 1):  # one character for the mark
        if any(isinstance(item, str) or any(c.isalnum() for c in item.spoken) for item in part):
            parts.append([*mute, *part])
            mute = []
            continue
        silent = [replace(item, spoken="") for item in part if isinstance(item, SpokenWord)]
        if parts:
            parts[-1] += silent
        else:
            mute += silent
    last = len(parts) - 1
    return [
        _utterance(_marked(part, within=within or index < last)) for index, part in enumerate(parts)
    ]


def _marked(items: list[SpokenWord | str], *, within: bool) -> list[SpokenWord | str]:
    """With an end mark after the last spoken word, before the emotion tags that may follow it."""
    for index in range(len(items) - 1, -1, -1):
        item = items[index]
        if isinstance(item, SpokenWord) and item.spoken:
            nearby = "".join(
                i.spoken for i in items[max(0, index - 8) : index + 1] if not isinstance(i, str)
            )
            if mark := end_mark(nearby, within=within):
                marked = replace(item, spoken=item.spoken.rstrip("-–—") + mark)
                return [*items[:index], marked, *items[index + 1 :]]
            break
    return items


def _utterance(items: Sequence[SpokenWord | str]) -> Utterance:
    text = ""
    glued = True
    for item in items:
        said = item if isinstance(item, str) else item.spoken
        if said:
            text += said if glued else f" {said}"
            glued = isinstance(item, SpokenWord) and not item.space_after
        elif isinstance(item, SpokenWord) and item.space_after:
            glued = not text
    return Utterance(text, tuple(item for item in items if isinstance(item, SpokenWord)))


def _divide(items: list[SpokenWord | str], limit: int) -> list[list[SpokenWord | str]]:
    """Parts whose text stays within the limit, split at the best place after the middle of each."""
    rest = [small for item in items for small in _shorten(item, limit)]
    parts: list[list[SpokenWord | str]] = []
    while True:
        size = count = 0
        for item in rest:
            said = item if isinstance(item, str) else item.spoken
            size += len(said) + 1 if said else 0
            if size > limit + 1:
                break
            count += 1
        if count == len(rest):
            break
        count = _best_split(rest, count)
        parts.append(rest[:count])
        rest = rest[count:]
    return [*parts, rest]


def _best_split(items: list[SpokenWord | str], count: int) -> int:
    for marks in (SENTENCE_MARKS, CLAUSE_MARKS):
        for index in range(count, count // 2, -1):
            item = items[index - 1]
            if isinstance(item, SpokenWord) and (mark := last_mark(item.spoken)) and mark in marks:
                return index
    return max(1, count)


def _shorten(item: SpokenWord | str, limit: int) -> list[SpokenWord | str]:
    """A word whose reading alone is too long, in pieces."""
    if isinstance(item, str) or len(item.spoken) <= limit:
        return [item]
    readings: list[str] = []
    rest = item.spoken
    while len(rest) > limit:
        place = rest.rfind(" ", limit // 2, limit)
        place = place if place > 0 else limit
        readings.append(rest[:place].strip())
        rest = rest[place:].strip()
    readings.append(rest)
    step = len(item.written) / len(readings)
    places = [round(step * index) for index in range(len(readings) + 1)]
    return [
        replace(
            item,
            written=item.written[places[index] : places[index + 1]],
            spoken=reading,
            space_after=item.space_after and index == len(readings) - 1,
            sounds_before=0 if index else item.sounds_before,
        )
        for index, reading in enumerate(readings)
    ]
