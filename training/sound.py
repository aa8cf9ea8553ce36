"""The sound that the decoder learns from, cut into short stretches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.codes import FRAME, frames, load
from training.grid import UNIT

Samples = npt.NDArray[np.int16]


@dataclass
class Sound:
    """Utterances: codes ``[frames, 7]``, and sound and its voiced part, 2048 samples a frame."""

    codes: list[npt.NDArray[np.int64]]
    audio: list[Samples]
    voiced: list[Samples]

    def hours(self) -> float:
        """Length of all sound."""
        return sum(len(a) for a in self.audio) / 24000 / 3600


def load_sound(folder: Path) -> Sound:
    """Utterances of the shards whose sound was kept, with their codes."""
    found = Sound([], [], [])
    for path in sorted(folder.glob("*.voiced.npy")):
        shard = int(path.name[:3])
        if not (folder / f"{shard:03d}.npz").exists():
            continue  # still being written
        kept = load(folder, [shard])
        audio, voiced = (
            np.load(folder / f"{shard:03d}.{name}.npy", mmap_mode="r")
            for name in ("audio", "voiced")
        )
        with np.load(folder / f"{shard:03d}.npz") as z:
            units, count = z["units"].astype(np.int64), z["symbol_count"]
            texts = [str(t).lower() for t in z["text"]]
        place = np.concatenate([[0], np.cumsum(count)])
        total = np.concatenate([[0], np.cumsum(units)]) * UNIT
        at = 0
        for i, text in enumerate(texts):
            if at < len(kept) and kept[at].text == text:
                samples = slice(total[place[i]], total[place[i + 1]])
                found.codes.append(frames(kept[at]).codes)
                found.audio.append(audio[samples])
                found.voiced.append(voiced[samples])
                at += 1
    return found


def stretches(
    data: Sound, rng: np.random.Generator, batch: int, length: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Random stretches: codes
    ``[B, length, 7]``, sound and its voiced part ``[B, 2048 * length]``."""
    codes = np.zeros((batch, length, 7), np.int64)
    sounds = np.zeros((2, batch, length * FRAME), np.float32)
    for b in range(batch):
        while True:
            i = int(rng.integers(len(data.codes)))
            if len(data.codes[i]) >= length:
                break
        start = int(rng.integers(0, len(data.codes[i]) - length + 1))
        codes[b] = data.codes[i][start : start + length]
        for out, source in zip(sounds, (data.audio[i], data.voiced[i]), strict=True):
            piece = source[start * FRAME : (start + length) * FRAME]
            out[b, : len(piece)] = piece.astype(np.float32) / 32767
    return torch.from_numpy(codes), torch.from_numpy(sounds[0]), torch.from_numpy(sounds[1])
