"""Spectrograms of one sentence: the teacher, and codecs of two folders, each from the teacher's own
codes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from orpheus_plugin.engine.config import EngineConfig
from orpheus_plugin.engine.local import LocalEngine
from orpheus_plugin.evaluation.naturalness import Naturalness
from orpheus_plugin.events import AudioChunk
from orpheus_plugin.models.adapters import bundled_adapters
from orpheus_plugin.options import SpeechOptions
from training.codes import frames
from training.evaluate import teacher_reading

WINDOW, HOP = 512, 96

Sound = npt.NDArray[np.float32]
"""24 kHz samples ``[n]``."""


def decode(folder: Path, codes: npt.NDArray[np.int64]) -> Sound:
    """Sound of codes ``[frames, 7]`` by the SNAC of a folder."""
    from safetensors.torch import load_file
    from snac import SNAC

    model: Any = SNAC(**json.loads((folder / "config.json").read_text()))
    model.load_state_dict(load_file(folder / "model.safetensors"))
    rows = torch.from_numpy(codes)[None]
    torch.manual_seed(0)
    with torch.no_grad():
        sound = model.eval().decode([rows[:, :, s].flatten(1) for s in ([0], [1, 4], [2, 3, 5, 6])])
    out: Sound = sound[0, 0].numpy()
    return out


def draw(text: str, before: Path, after: Path, path: Path) -> None:
    """Write a picture of three spectrograms, each with its score.

    Args:
        text: what is said.
        before, after: folders of two codecs (``config.json``, ``model.safetensors``).
        path: of the JPEG file.
    """
    reading, own = teacher_reading(text, 0)
    codes = frames(reading).codes
    sounds = {"teacher": own, "before": decode(before, codes), "after": decode(after, codes)}
    spectrograms(sounds, path)


def draw_voices(text: str, voices: Sequence[str], path: Path) -> None:
    """Write a picture of the bundled model's voices, each saying the text.

    Args:
        voices: its own, and adapters that come with it.
        path: of the JPEG file.
    """

    async def speak() -> dict[str, Sound]:
        adapters = {name: name for name in voices if name in bundled_adapters()}
        engine = LocalEngine(EngineConfig(model="mini", device="cpu", adapters=adapters))
        await engine.start()
        sounds = {}
        for voice in voices:
            async with engine.open_turn(SpeechOptions(voice=voice, seed=1)) as turn:
                turn.push_text(text)
                turn.end()
                pcm = b"".join([e.pcm async for e in turn if isinstance(e, AudioChunk)])
            sounds[voice] = np.frombuffer(pcm, "<i2").astype(np.float32) / np.float32(32_768)
        await engine.aclose()
        return sounds

    spectrograms(asyncio.run(speak()), path, window=2048, khz=2)  # so that harmonics can be seen


def spectrograms(
    sounds: Mapping[str, Sound], path: Path, window: int = WINDOW, khz: float = 12
) -> None:
    """Write one spectrogram under the other, up to a frequency, each with its naturalness."""
    from matplotlib.figure import Figure

    naturalness = Naturalness()
    figure = Figure(figsize=(10, 2.5 * len(sounds)), layout="constrained")
    rows = figure.subplots(len(sounds), 1, sharex=True)
    for axes, (name, sound) in zip(rows, sounds.items(), strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(sound, window)[::HOP]
        size = np.abs(np.fft.rfft(windows * np.hanning(window)))
        axes.imshow(
            20 * np.log10(size.T + 1e-4),
            origin="lower",
            aspect="auto",
            cmap="magma",
            vmin=-50,
            vmax=30,
            extent=(0, len(sound) / 24000, 0, 12),
        )
        axes.set_title(f"{name}: {naturalness(sound):.2f}", loc="left", fontsize=10)
        axes.set_ylim(0, khz)
        axes.set_ylabel("kHz")
    axes.set_xlabel("s")
    figure.savefig(path, dpi=80, pil_kwargs={"quality": 80})
