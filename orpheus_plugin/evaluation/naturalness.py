"""Predicted naturalness of speech: DistillMOS, about 1 (bad) to 5 (as a person)."""

from __future__ import annotations

import contextlib
import io
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch


@contextlib.contextmanager
def _without_torchaudio() -> Iterator[None]:
    """Let DistillMOS be imported without torchaudio, which it imports to read files.

    No files are read here, and torchaudio's wheels do not load with torch's CPU build.
    """
    names = ("torchaudio", "torchaudio.transforms")
    before = {name: sys.modules.get(name) for name in names}
    package, transforms = (types.ModuleType(name) for name in names)
    transforms.MFCC = transforms.Resample = object  # type: ignore[attr-defined]
    package.transforms = transforms  # type: ignore[attr-defined]
    sys.modules |= {names[0]: package, names[1]: transforms}
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


class Naturalness:
    """Mean opinion score of speech as DistillMOS predicts it (0.3 s of one thread a second of
    speech).

    microsoft/Distill-MOS, MIT; its weights come in its wheel. Its input is 16 kHz.
    """

    def __init__(self) -> None:
        with _without_torchaudio():
            import distillmos
        with contextlib.redirect_stdout(io.StringIO()):
            model: Any = distillmos.ConvTransformerSQAModel()
        self.model = model.eval()

    @torch.inference_mode()
    def __call__(self, audio: npt.NDArray[np.float32]) -> float:
        """Score of 24 kHz samples in [-1, 1]."""
        from scipy.signal import resample_poly

        sound = resample_poly(audio, 2, 3).astype(np.float32)
        return float(self.model(torch.from_numpy(sound)[None]))
