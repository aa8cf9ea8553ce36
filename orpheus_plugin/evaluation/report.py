"""Speaks sentences with an engine's voice, recognises and scores them, and prints a line of a
table."""

from __future__ import annotations

import asyncio
import contextlib
import wave
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from orpheus_plugin.errors import GenerationFailed
from orpheus_plugin.evaluation.judge import errors
from orpheus_plugin.evaluation.pitch import median_pitch
from orpheus_plugin.events import SAMPLE_RATE, AudioChunk
from orpheus_plugin.options import SpeechOptions
from orpheus_plugin.speech_engine import SpeechEngine

Sound = npt.NDArray[np.float32]

_SHORTEST = SAMPLE_RATE // 5
"""Samples below which there is nothing to score."""


@dataclass(frozen=True)
class Spoken:
    """One sentence as it was spoken.

    Attributes:
        heard: what the recogniser understood.
        wrong, words: wrong words, and all words of the sentence.
        natural: mean opinion score predicted by a model, 1 to 5.
        seconds: of sound.
        pitch_hz: median; None where nothing is voiced.
        rtfx: seconds of sound for each second of work.
        ttfa_s: from the text to the first sound.
    """

    text: str
    heard: str
    wrong: int
    words: int
    natural: float
    seconds: float
    pitch_hz: float | None
    rtfx: float | None
    ttfa_s: float | None


async def speak(
    engine: SpeechEngine,
    voice: str | None,
    sentences: Sequence[str],
    *,
    listen: Callable[[Sound], str],
    score: Callable[[Sound], float],
    seed: int = 0,
    sounds: Path | None = None,
    done: Callable[[Spoken], None] = lambda spoken: None,
) -> list[Spoken]:
    """Speak the sentences one after the other and judge each. A sentence that fails counts as
    silence.

    Args:
        listen, score: the recogniser and the naturalness of 24 kHz samples; they run on another
        thread.
        seed: of the first sentence; the following ones have the next ones.
        sounds: a directory for WAV files.
        done: called with each sentence's result.
    """
    found = []
    for number, text in enumerate(sentences):
        options = SpeechOptions(voice=voice, seed=seed + number)
        pcm = b""
        async with engine.open_turn(options, max_wait_s=60.0) as turn:
            turn.push_text(text)
            turn.end()
            with contextlib.suppress(GenerationFailed):
                pcm = b"".join([event.pcm async for event in turn if isinstance(event, AudioChunk)])
        if sounds is not None:
            await asyncio.to_thread(_write, sounds / f"{number:03d}.wav", pcm)
        sound = np.frombuffer(pcm, "<i2").astype(np.float32) / np.float32(32_768)
        heard, natural = "", 1.0
        if len(sound) >= _SHORTEST:
            heard = await asyncio.to_thread(listen, sound)
            natural = await asyncio.to_thread(score, sound)
        wrong, words = errors(text, heard)
        stats = turn.stats
        found.append(
            Spoken(
                text,
                heard,
                wrong,
                words,
                natural,
                len(sound) / SAMPLE_RATE,
                median_pitch(sound),
                stats.rtfx,
                stats.ttfa_s,
            )
        )
        done(found[-1])
    return found


def _write(path: Path, pcm: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(pcm)


def figures(spoken: Sequence[Spoken]) -> dict[str, float]:
    """A voice's figures; those that need sound are missing if there was none.

    `words_wrong` is the word error rate, `chars_per_s` the speaking rate; `rtfx` and `ttfa_ms` are
    medians.
    """
    seconds = sum(one.seconds for one in spoken)
    found = {
        "sentences": float(len(spoken)),
        "words_wrong": sum(one.wrong for one in spoken) / max(1, sum(one.words for one in spoken)),
        "natural": float(np.mean([one.natural for one in spoken])) if spoken else 1.0,
    }
    if seconds:
        found["chars_per_s"] = sum(len(one.text) for one in spoken if one.seconds) / seconds
    medians: dict[str, list[float | None]] = {
        "pitch_hz": [one.pitch_hz for one in spoken],
        "rtfx": [one.rtfx for one in spoken],
        "ttfa_ms": [1000 * one.ttfa_s for one in spoken if one.ttfa_s is not None],
    }
    for name, values in medians.items():
        known = [value for value in values if value is not None]
        if known:
            found[name] = float(np.median(known))
    return found


_COLUMNS = (
    ("sentences", "sentences", "{:.0f}"),
    ("words_wrong", "words wrong", "{:.1%}"),
    ("natural", "naturalness", "{:.2f}"),
    ("chars_per_s", "chars/s", "{:.1f}"),
    ("pitch_hz", "pitch", "{:.0f} Hz"),
    ("rtfx", "x real time", "{:.1f}"),
    ("ttfa_ms", "first sound", "{:.0f} ms"),
)


def table(voices: dict[str, dict[str, float]]) -> str:
    """Figures of voices, one a line, in Markdown."""
    rows = [["voice", *(title for _, title, _ in _COLUMNS)]]
    for voice, found in voices.items():
        cells = [form.format(found[key]) if key in found else "-" for key, _, form in _COLUMNS]
        rows.append([voice, *cells])
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    rows.insert(1, ["-" * width for width in widths])
    lines = (
        " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(f"| {line} |" for line in lines)
