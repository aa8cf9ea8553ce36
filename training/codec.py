"""The codec's decoder: SNAC's own, taught to speak the codes that :mod:`training.codes` defines.

There is no encoder to learn: the codes of an utterance are known from the teacher. What is learned
is the sound of every row (the codebooks, through small tables of what a row means) and SNAC's
decoder, end to end on the waveform: multi-resolution spectra and log-mel, then a short adversarial
finish that takes the buzz off. The indices stay as they are, so the language model and the codec
can be trained side by side.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from training.codes import FRAME, LEVELS, PHASES, PHONEMES, PITCHES, REMAINING, ROWS, frames, load
from training.muon import Muon
from training.speech import UNIT

CONFIG: dict[str, Any] = {
    "sampling_rate": 24000,
    "encoder_dim": 8,
    "encoder_rates": [2, 4, 8, 8],
    "decoder_dim": 256,
    "decoder_rates": [8, 8, 4, 2],
    "attn_window_size": None,
    "codebook_size": ROWS,
    "codebook_dim": 32,
    "vq_strides": [4, 2, 1],
    "noise": True,
    "depthwise": True,
}
LATENT_DIM = CONFIG["encoder_dim"] * 2 ** len(CONFIG["encoder_rates"])


WAVE = 0.0
"""Weight of the wave distance. Above 0 it should teach the decoder the codes' phase, but from a cold start it
mostly rewards silence wherever the phase is not yet right; shown while training, not yet used."""


class Rows(nn.Module):
    """Codebook rows from the few things a row says, through a small network."""

    def __init__(self, sizes: tuple[int, ...], dim: int) -> None:
        super().__init__()
        self.sizes = sizes
        self.parts = nn.ModuleList(nn.Embedding(n, 64) for n in sizes)
        self.mix = nn.Sequential(
            nn.Linear(64 * len(sizes), 256), nn.GELU(), nn.Linear(256, dim), nn.LayerNorm(dim)
        )

    def forward(self, row: Tensor) -> Tensor:
        """Vectors of row numbers; the last part counts fastest."""
        vectors = []
        for size, part in zip(reversed(self.sizes), reversed(self.parts), strict=True):  # type: ignore[call-overload]
            vectors.append(part(row % size))
            row = row // size
        out: Tensor = self.mix(torch.cat(vectors, -1))
        return out

    def count(self) -> int:
        """Number of rows in use."""
        return int(np.prod(self.sizes))


class Codec(nn.Module):
    """Codes ``[B, frames, 7]`` to sound ``[B, 2048 * frames]``.

    SNAC's weight normalisation is taken off for training (the optimiser does better on plain
    matrices) and put back at export.
    """

    def __init__(self) -> None:
        super().__init__()
        from snac.layers import Decoder

        dim = CONFIG["codebook_dim"]
        self.middle = Rows((PITCHES, PHASES, LEVELS), dim)
        self.fine = Rows((len(PHONEMES), REMAINING, 2), dim)
        self.middle_out = nn.Conv1d(dim, LATENT_DIM, 1)
        self.fine_out = nn.Conv1d(dim, LATENT_DIM, 1)
        self.decoder = Decoder(
            LATENT_DIM,
            CONFIG["decoder_dim"],
            CONFIG["decoder_rates"],
            noise=CONFIG["noise"],
            depthwise=CONFIG["depthwise"],
            attn_window_size=None,
        )
        for module in self.decoder.modules():
            if parametrize.is_parametrized(module):
                parametrize.remove_parametrizations(module, "weight")

    def latents(self, codes: Tensor) -> Tensor:
        """Codes ``[B, frames, 7]`` to ``[B, 128, 4 * frames]``."""
        m = self.middle(codes[:, :, [1, 4]].flatten(1)).transpose(1, 2)
        f = self.fine(codes[:, :, [2, 3, 5, 6]].flatten(1)).transpose(1, 2)
        latents: Tensor = self.middle_out(m).repeat_interleave(2, -1) + self.fine_out(f)
        return latents

    def forward(self, codes: Tensor) -> Tensor:
        """The sound of codes."""
        sound: Tensor = self.decoder(self.latents(codes))[:, 0]
        return sound

    def matrices(self) -> list[nn.Parameter]:
        """The weights that mix channels (for Muon)."""
        return [
            m.weight
            for m in self.decoder.modules()
            if isinstance(m, nn.Conv1d | nn.ConvTranspose1d)
            and m.groups == 1
            and min(m.weight.shape[0], m.weight[0].numel()) >= 16
        ]


def mel_filters(n_fft: int, bands: int = 80, rate: int = 24000) -> Tensor:
    """Triangular mel filters ``[bands, n_fft // 2 + 1]``."""
    top = 2595 * np.log10(1 + rate / 2 / 700)
    points = 700 * (10 ** (np.linspace(0, top, bands + 2) / 2595) - 1)
    freq = np.linspace(0, rate / 2, n_fft // 2 + 1)
    low, mid, high = points[:-2, None], points[1:-1, None], points[2:, None]
    return torch.tensor(
        np.maximum(0, np.minimum((freq - low) / (mid - low), (high - freq) / (high - mid))),
        dtype=torch.float32,
    )


RESOLUTIONS = ((512, 128), (1024, 256), (2048, 512))
WINDOWS = {n: torch.hann_window(n) for n, _ in RESOLUTIONS}
FILTERS = {512: mel_filters(512, 40), 1024: mel_filters(1024), 2048: mel_filters(2048, 128)}


def spectra(x: Tensor) -> list[Tensor]:
    """Complex spectra ``[B, bins, steps]`` at each resolution."""
    return [torch.stft(x, n, h, window=WINDOWS[n], return_complex=True) for n, h in RESOLUTIONS]


def spectral_loss(made: list[Tensor], real: list[Tensor]) -> tuple[Tensor, Tensor]:
    """How far two sounds are apart: in what is heard, and in the wave itself.

    Heard: log-magnitude, relative magnitude and log-mel distance. Wave: complex distance, which the
    codes' phase makes learnable; it teaches the pulses their places. Averages over resolutions.
    """
    heard, wave = torch.zeros(()), torch.zeros(())
    for (n, _), a, b in zip(RESOLUTIONS, made, real, strict=True):
        y, x = a.abs().clamp(min=1e-5), b.abs().clamp(min=1e-5)
        mel_y, mel_x = FILTERS[n] @ y, FILTERS[n] @ x
        heard = (
            heard
            + (y.clamp(min=1e-3).log() - x.clamp(min=1e-3).log()).abs().mean()
            + 0.5 * (y - x).norm() / x.norm().clamp(min=1e-2)
            + 2 * (mel_y.clamp(min=1e-3).log() - mel_x.clamp(min=1e-3).log()).abs().mean()
        )
        wave = wave + (a - b).abs().sum() / x.sum()
    return heard / len(RESOLUTIONS), wave / len(RESOLUTIONS)


class Judge(nn.Module):
    """Discriminator of one spectrogram resolution: a few strided 2-D convolutions."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        shapes = [(1, width, (2, 1)), (width, width, (2, 1)), (width, 2 * width, (2, 2))]
        shapes += [(2 * width, 2 * width, (2, 2))]
        self.layers = nn.ModuleList(
            nn.Conv2d(a, b, (5, 3), stride=s, padding=(2, 1)) for a, b, s in shapes
        )
        self.last = nn.Conv2d(2 * width, 1, 3, padding=1)

    def forward(self, magnitude: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Realness map and the features on the way."""
        x = magnitude.abs().clamp(min=1e-4).log()[:, None] / 4 + 0.8
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.1)
            features.append(x)
        return self.last(x), features


@dataclass
class Sound:
    """Codes and sound of the utterances the decoder learns from."""

    codes: list[npt.NDArray[np.int64]]
    audio: list[npt.NDArray[np.int16]]


def load_sound(folder: Path, shards: list[int]) -> Sound:
    """Utterances of the shards whose sound was kept, with their codes."""
    codes, audio = [], []
    for shard in shards:
        kept = load(folder, [shard])
        sound = np.load(folder / f"{shard:03d}.audio.npy", mmap_mode="r")
        with np.load(folder / f"{shard:03d}.npz") as z:
            units, count = z["units"].astype(np.int64), z["symbol_count"]
            texts = [str(t).lower() for t in z["text"]]
        place = np.concatenate([[0], np.cumsum(count)])
        total = np.concatenate([[0], np.cumsum(units)]) * UNIT
        at = 0
        for i, text in enumerate(texts):
            if at < len(kept) and kept[at].text == text:
                codes.append(frames(kept[at]).codes)
                audio.append(sound[total[place[i]] : total[place[i + 1]]])
                at += 1
    return Sound(codes, audio)


def segment(
    data: Sound, rng: np.random.Generator, batch: int, length: int
) -> tuple[Tensor, Tensor]:
    """Random stretches: codes ``[B, length, 7]`` and sound ``[B, 2048 * length]``."""
    codes = np.zeros((batch, length, 7), np.int64)
    audio = np.zeros((batch, length * FRAME), np.float32)
    for b in range(batch):
        while True:
            i = int(rng.integers(len(data.codes)))
            if len(data.codes[i]) >= length:
                break
        start = int(rng.integers(0, len(data.codes[i]) - length + 1))
        codes[b] = data.codes[i][start : start + length]
        piece = data.audio[i][start * FRAME : (start + length) * FRAME]
        audio[b, : len(piece)] = piece.astype(np.float32) / 32767
    return torch.from_numpy(codes), torch.from_numpy(audio)


def train(
    work: Path,
    minutes: float,
    adversarial_from: float = 1.0,
    batch: int = 4,
    length: int = 12,
    seed: int = 0,
) -> None:
    """Train the codec for some minutes of processor time, or go on where the checkpoint stopped.

    Args:
        work: folder of intermediate files.
        minutes: length of the whole run.
        adversarial_from: share of the run after which discriminators join; they make a step two
            to three times as dear, so by default they stay out.
        batch, length: stretches in a step, and frames in a stretch.
        seed: of the drawing.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    kept = sorted(int(p.name[:3]) for p in (work / "speech").glob("*.audio.npy"))
    data = load_sound(
        work / "speech", [n for n in kept if (work / "speech" / f"{n:03d}.npz").exists()]
    )
    hours = sum(len(a) for a in data.audio) / 24000 / 3600
    net, average = Codec(), Codec()
    average.load_state_dict(net.state_dict())
    judges = nn.ModuleList(Judge() for _ in RESOLUTIONS)
    matrices = net.matrices()
    chosen = {id(p) for p in matrices}
    others = [p for p in net.parameters() if id(p) not in chosen]
    opt = torch.optim.AdamW(others, 2e-3, betas=(0.8, 0.99), weight_decay=0.0)
    muon = Muon(matrices, decay=0.0)
    opt_judge = torch.optim.AdamW(judges.parameters(), 5e-4, betas=(0.8, 0.99))
    path = work / "codec.pt"
    step, spent = 0, 0.0
    # Optional: a decoder of the same shape that already makes speech from other codes saves about half the time.
    if not path.exists() and (work / "codec_start.pt").exists():
        net.load_state_dict(torch.load(work / "codec_start.pt", weights_only=True))
        average.load_state_dict(net.state_dict())
    if path.exists():
        saved = torch.load(path, weights_only=True)
        net.load_state_dict(saved["net"])
        average.load_state_dict(saved.get("average", saved["net"]))
        judges.load_state_dict(saved["judges"])
        opt.load_state_dict(saved["opt"])
        opt_judge.load_state_dict(saved["opt_judge"])
        muon.momentum = saved["muon"]
        step, spent = saved["step"], saved["spent"]
    print(f"{len(data.codes)} utterances, {hours:.1f} h, from step {step}", flush=True)
    rng = np.random.default_rng(seed + step)
    begun, saved_at, recent = time.process_time() - spent, time.time(), {}
    while True:
        spent = time.process_time() - begun
        done = spent / (60 * minutes)
        if done >= 1 or time.time() - saved_at > 180:
            state = {
                "net": net.state_dict(),
                "average": average.state_dict(),
                "judges": judges.state_dict(),
                "opt": opt.state_dict(),
                "opt_judge": opt_judge.state_dict(),
                "muon": muon.momentum,
                "step": step,
                "spent": spent,
            }
            torch.save(state, path.with_suffix(".part"))
            path.with_suffix(".part").rename(path)
            saved_at = time.time()
        if done >= 1:
            break
        rate = min(1.0, (step + 1) / 100) * max(0.03, 1 - done)
        for group in opt.param_groups:
            group["lr"] = 1.5e-3 * rate
        # Small steps while all is still to be found, larger ones for the fine print.
        codes, real = segment(data, rng, batch if done > 0.5 else batch // 2, length)
        # The stretch is cut out of an utterance, so its edges lack context: they are not judged.
        edge = 3 * 512
        made = net(codes)[:, edge:-edge]
        made_spectra, real_spectra = spectra(made), spectra(real[:, edge:-edge])
        heard, wave = spectral_loss(made_spectra, real_spectra)
        loss = spectral = heard + WAVE * wave
        shown = {"heard": float(heard.detach()), "wave": float(wave.detach())}
        if done > adversarial_from:
            fooled = alike = torch.zeros(())
            blame = torch.zeros(())
            for judge, y, x in zip(judges, made_spectra, real_spectra, strict=True):
                on_real, _ = judge(x)
                on_made, _ = judge(y.detach())
                blame = blame + ((1 - on_real) ** 2).mean() + (on_made**2).mean()
            opt_judge.zero_grad()
            blame.backward()  # type: ignore[no-untyped-call]
            opt_judge.step()
            for judge, y, x in zip(judges, made_spectra, real_spectra, strict=True):
                with torch.no_grad():
                    _, wanted = judge(x)
                verdict, features = judge(y)
                fooled = fooled + ((1 - verdict) ** 2).mean()
                alike = alike + sum(
                    (a - b).abs().mean() for a, b in zip(features, wanted, strict=True)
                )
            ready = min(1.0, (done - adversarial_from) / 0.05)
            loss = spectral + ready * (0.1 * fooled + 0.5 * alike)
            shown |= {"judge": float(blame.detach()), "fooled": float(fooled.detach())}
        opt.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(others, 1.0)
        opt.step()
        muon.step(0.01 * rate)
        with torch.no_grad():
            for p, q in zip(average.parameters(), net.parameters(), strict=True):
                p.lerp_(q, 0.006)
        step += 1
        for key, value in shown.items():
            recent[key] = 0.97 * recent.get(key, value) + 0.03 * value
        if step % 50 == 0:
            values = " ".join(f"{k} {x:.3f}" for k, x in recent.items())
            print(f"step {step} {spent:.0f}s {values}", flush=True)
