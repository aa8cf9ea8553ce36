"""Spectrograms of one sentence: the teacher, and codecs of two folders, each from the teacher's own
codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from orpheus_plugin.evaluation.naturalness import Naturalness
from training.codes import frames
from training.evaluate import teacher_reading

WINDOW, HOP = 512, 96


def decode(folder: Path, codes: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Sound of codes ``[frames, 7]`` by the SNAC of a folder."""
    from safetensors.torch import load_file
    from snac import SNAC

    model: Any = SNAC(**json.loads((folder / "config.json").read_text()))
    model.load_state_dict(load_file(folder / "model.safetensors"))
    rows = torch.from_numpy(codes)[None]
    torch.manual_seed(0)
    with torch.no_grad():
        sound = model.eval().decode([rows[:, :, s].flatten(1) for s in ([0], [1, 4], [2, 3, 5, 6])])
    out: npt.NDArray[np.float32] = sound[0, 0].numpy()
    return out


def draw(text: str, before: Path, after: Path, path: Path) -> None:
    """Write a picture of three spectrograms, each with its score.

    Args:
        text: what is said.
        before, after: folders of two codecs (``config.json``, ``model.safetensors``).
        path: of the JPEG file.
    """
    from matplotlib.figure import Figure

    reading, own = teacher_reading(text, 0)
    codes = frames(reading).codes
    sounds = {"teacher": own, "before": decode(before, codes), "after": decode(after, codes)}
    naturalness = Naturalness()
    figure = Figure(figsize=(10, 7.5), layout="constrained")
    for axes, (name, sound) in zip(figure.subplots(3, 1, sharex=True), sounds.items(), strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(sound, WINDOW)[::HOP]
        size = np.abs(np.fft.rfft(windows * np.hanning(WINDOW)))
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
        axes.set_ylabel("kHz")
    axes.set_xlabel("s")
    figure.savefig(path, dpi=80, pil_kwargs={"quality": 80})
