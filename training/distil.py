"""One decoder from two: it sounds like the first below some hundred Hz and like the second above.

One decoder keeps the codes' phase: its pitch is natural and its vowels are poor. The other has
clear vowels and a rough pitch. A filter that takes the low band of the first and the rest of the
second sounds better than either, but needs both to run. Here the joined decoder
(:mod:`training.widen`) learns what the filter makes. The target is known to the sample, noise
included, so this is plain regression: it needs the teacher's codes, not its sound.
"""

from __future__ import annotations

import copy
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training import decoder
from training.codec import Codec
from training.losses import envelope, sizes
from training.restore import restore_codec
from training.sound import load_sound, stretches
from training.widen import join

BORDER_HZ, SLOPE_HZ = 800, 100
WINDOWS = (256, 1024)
EDGE = 1536
"""Samples at both ends of a stretch that do not count: there a decoder sees padding."""
BATCH, LENGTH = 6, 8
RATE, AVERAGE = 5e-4, 0.01


def crossover(low: Tensor, high: Tensor, border_hz: float) -> Tensor:
    """The first sound below the border, the second above. Sounds ``[B, T]``."""
    n = low.shape[-1]
    hz = torch.fft.rfftfreq(n, 1 / 24000)
    share = torch.sigmoid((border_hz - hz) / SLOPE_HZ)
    mixed = torch.fft.rfft(low) * share + torch.fft.rfft(high) * (1 - share)
    out: Tensor = torch.fft.irfft(mixed, n)
    return out


def distance(made: Tensor, wanted: Tensor) -> Tensor:
    """The error of the wave, and of complex spectra over the local envelope."""
    loss = (made - wanted).square().sum() / wanted.square().sum()
    for size in WINDOWS:
        window = torch.hann_window(size)
        ours, theirs = (
            torch.stft(x, size, size // 4, window=window, return_complex=True)
            for x in (made, wanted)
        )
        weight = 1 / envelope(theirs, size)
        loss = loss + (weight * sizes(ours - theirs)).sum() / (weight * theirs.abs()).sum()
    return loss


def sound(codec: Codec, codes: Tensor, noise: list[Tensor]) -> Tensor:
    """Codes ``[B, frames, 7]`` to sound ``[B, 2048 * frames]``, on given noise."""
    latents = codec.latents(codes).transpose(1, 2)
    last = decoder.features(codec.decoder, latents, noise, len(noise))[-1]
    return decoder.waveform(codec.decoder, last)


class Distillation:
    """The two decoders, and the joined one that is trained.

    Args:
        high: sounds above the border, and at first everywhere.
        low: sounds below it.
    """

    def __init__(self, high: Codec, low: Codec, border_hz: float = BORDER_HZ) -> None:
        self.high, self.low, self.border_hz = high.eval(), low.eval(), border_hz
        self.learner = join(high, low).train()
        self.average = copy.deepcopy(self.learner)
        self.optimiser = torch.optim.AdamW(
            self.learner.parameters(), RATE, betas=(0.9, 0.99), weight_decay=0.0
        )
        self.step = 0

    def train_step(self, codes: Tensor, done: float) -> float:
        """One step on codes ``[B, frames, 7]``; `done` is the share of the run that is over."""
        noise = decoder.noises(len(codes), 4 * codes.shape[1], self.learner.config["decoder_rates"])
        with torch.no_grad():
            low, high = (sound(codec, codes, noise) for codec in (self.low, self.high))
            wanted = crossover(low, high, self.border_hz)[:, EDGE:-EDGE]
        rate = min(1.0, (self.step + 1) / 30) * max(0.02, min(1.0, 1.15 * (1 - done)))
        for group in self.optimiser.param_groups:
            group["lr"] = RATE * rate
        loss = distance(sound(self.learner, codes, noise)[:, EDGE:-EDGE], wanted)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.learner.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        share = max(AVERAGE, 1 / (self.step + 5))
        with torch.no_grad():
            for mean, new in zip(self.average.parameters(), self.learner.parameters(), strict=True):
                mean.lerp_(new, share)
        return float(loss.detach())


def distil(work: Path, high: Path, low: Path, *, border_hz: float, minutes: float) -> None:
    """Train one codec from the folders of two for so many minutes of processor time, and write
    ``codec.pt``."""
    path = work / "codec.pt"
    if path.exists():
        print(f"{path} is there: nothing to do")
        return
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = load_sound(work / "speech")
    run = Distillation(restore_codec(high), restore_codec(low), border_hz)
    rng = np.random.default_rng(0)
    begun = time.process_time()
    while (done := (time.process_time() - begun) / (60 * minutes)) < 1:
        loss = run.train_step(stretches(data, rng, BATCH, LENGTH)[0], done)
        if run.step % 50 == 0:
            print(f"step {run.step} {100 * done:.0f} % loss {loss:.3f}", flush=True)
    torch.save({"average": run.average.state_dict(), "config": run.average.config}, path)
    print(f"{path}: {run.step} steps on stretches of {LENGTH * 2048 / 24000:.2f} s")
