"""Train the codec's decoder: first the source of the voice, then speech, then what makes it
natural.

1. *Source*: only the rows and the first two blocks, which run at 3 kHz. A readout of them must give
   the harmonics at the codes' phase. A step costs a fraction of a whole one.
2. *Speech*: the whole decoder; spectra, the wave of the voiced part with harmonics coming in from
   the bottom up, and the source still read out on the way.
3. *Natural*: discriminators are added. Each step uses some of them.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from training import decoder, losses, source
from training.codec import CONFIG, Codec
from training.discriminators import PERIODS, SPECTROGRAMS, blame, judges, unlike
from training.muon import Muon
from training.sound import load_sound, stretches

HEARD, WAVE, SOURCE, JUDGED, FOOLED = 2.5, 1.2, 0.7, 1.0, 0.3
"""Weights in the loss: spectra; wave; source; all that discriminators say; their verdict beside
their features."""
FIRST_TOP = 1500
"""Hz up to which the wave counts when the second stage begins."""
SAVE_EVERY = 180
"""Seconds between checkpoints."""


@dataclass(frozen=True)
class Plan:
    """The schedule of a run.

    Attributes:
        minutes: length of the whole run (of processor time on a CPU, of time on a GPU).
        source_until, speech_until: shares of it at which the first and the second stage end.
        wave_until: share of it by which the wave counts up to the top.
        batch, length: stretches in a step, and frames in a stretch.
        rate: peak learning rate of AdamW; Muon's is five times that, a discriminator's a seventh.
        average: share of the newest weights in the running average.
        judge_width: channels of the discriminators' first layers.
        asked: discriminators of each kind used in a step; their loss stands for that of all of the
            kind.
        fused: compile the decoder, which takes two minutes and pays after some hundred steps.
    """

    minutes: float = 95
    source_until: float = 0.04
    speech_until: float = 0.25
    wave_until: float = 0.25
    batch: int = 6
    length: int = 8
    rate: float = 2e-3
    average: float = 0.005
    judge_width: int = 16
    asked: int = 2
    fused: bool = True

    def pace(self, done: float, step: int) -> float:
        """Share of the peak rate: it rises for a short time, then falls to the end."""
        return min(1.0, (step + 1) / 50) * max(0.03, min(1.0, 1.1 * (1 - done)))

    def top(self, done: float) -> float:
        """Hz up to which the wave counts."""
        risen = (done - self.source_until) / (self.wave_until - self.source_until)
        return FIRST_TOP + (losses.WAVE_TOP - FIRST_TOP) * min(1.0, max(0.0, risen))


PLANS = {"cpu": Plan(), "cuda": Plan(minutes=8, batch=48, judge_width=48, asked=5)}
"""What fits one core for an evening, and a GPU for some minutes."""


def go_on(plan: Plan) -> Plan:
    """The plan for a decoder that is trained already: discriminators from the start, at a lower
    rate."""
    return replace(plan, source_until=0.0, speech_until=0.0, wave_until=0.35, rate=1.2e-3)


class Trainer:
    """The networks, their optimisers, and one step of each stage."""

    def __init__(self, plan: Plan, device: str, config: dict[str, Any] = CONFIG) -> None:
        self.plan, self.device = plan, device
        width = config["decoder_dim"]
        self.net = Codec(config).to(device)
        self.average = copy.deepcopy(self.net)
        self.source = source.Source((width // 4, width // 8)).to(device)
        self.judges = judges(plan.judge_width).to(device)
        matrices = self.net.matrices()
        chosen = {id(p) for p in matrices}
        self.others = [p for p in self.net.parameters() if id(p) not in chosen]
        self.others += list(self.source.parameters())
        self.opt = torch.optim.AdamW(self.others, plan.rate, betas=(0.8, 0.99), weight_decay=0.0)
        self.muon = Muon(matrices, decay=0.0)
        self.opt_judges = torch.optim.AdamW(
            self.judges.parameters(), plan.rate / 7, betas=(0.8, 0.99), weight_decay=0.0
        )
        self.features: Any = torch.compile(self._features) if plan.fused else self._features
        self.step = 0
        self.spent = 0.0

    def state(self) -> dict[str, Any]:
        """What a later process needs to continue."""
        parts = ("net", "average", "source", "judges", "opt", "opt_judges")
        state: dict[str, Any] = {name: getattr(self, name).state_dict() for name in parts}
        state |= {"muon": self.muon.momentum, "step": self.step, "spent": self.spent}
        return state | {"config": self.net.config}

    def load(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`; a state without ``net`` is the start of a new run."""
        if "net" not in state:
            self.net.load_state_dict(state["average"])
            self.average.load_state_dict(state["average"])
            return
        for name in ("net", "average", "source", "judges", "opt", "opt_judges"):
            getattr(self, name).load_state_dict(state[name])
        self.muon.momentum = [m.to(self.device) for m in state["muon"]]
        self.step, self.spent = state["step"], state["spent"]

    def _features(self, latents: Tensor, noise: list[Tensor], blocks: int) -> list[Tensor]:
        return decoder.features(self.net.decoder, latents, noise, blocks)

    def train_step(
        self, codes: Tensor, real: Tensor, voiced: Tensor, done: float, rng: np.random.Generator
    ) -> dict[str, Tensor]:
        """One step on a batch of stretches. Returns the figures to be shown.

        Args:
            codes, real, voiced: as :func:`training.sound.stretches` gives them, on the CPU.
            done: share of the run that is over.
            rng: draws the discriminators.
        """
        codes = codes.to(self.device)
        whole = done >= self.plan.source_until
        latents = self.net.latents(codes).transpose(1, 2)
        noise = decoder.noises(
            len(codes), latents.shape[1], self.net.config["decoder_rates"], device=self.device
        )
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            features = self.features(latents, noise, 4 if whole else 2)
        features = [f.float() for f in features]
        low = self.source.low(features[1], *source.harmonics(codes))
        shown = {"source": low.detach()}
        loss = low
        if whole:
            loss = SOURCE * (low + self.source.high(features[2], source.pulse_trains(codes)))
            # A stretch is cut out of an utterance: its edges lack context and do not count.
            inside = slice(source.EDGE, -source.EDGE)
            made = decoder.waveform(self.net.decoder, features[3])[:, inside]
            real, voiced = (t.to(self.device)[:, inside] for t in (real, voiced))
            made_spectra = losses.spectra(made)
            with torch.no_grad():
                real_spectra = losses.spectra(real)
                weights = losses.wave_weights(
                    real_spectra, losses.spectra(voiced), self.plan.top(done)
                )
            heard = losses.heard(made_spectra, real_spectra)
            wave = losses.wave(made_spectra, real_spectra, weights)
            loss = loss + HEARD * heard + WAVE * wave
            shown |= {"heard": heard.detach(), "wave": wave.detach()}
            if done >= self.plan.speech_until:
                judged = self.ask(made, made_spectra, real, real_spectra, rng)
                ready = min(1.0, 20 * (done - self.plan.speech_until))
                loss = loss + ready * JUDGED * judged
                shown |= {"judged": judged.detach()}
        self.update(loss, self.plan.pace(done, self.step))
        return shown

    def ask(
        self,
        made: Tensor,
        made_spectra: list[Tensor],
        real: Tensor,
        real_spectra: list[Tensor],
        rng: np.random.Generator,
    ) -> Tensor:
        """The decoder's loss by some discriminators on ``made``. The discriminators get their own
        gradients."""
        kinds = (len(SPECTROGRAMS), len(PERIODS))
        total = torch.zeros((), device=self.device)
        for first, count in zip((0, kinds[0]), kinds, strict=True):
            asked = min(count, self.plan.asked)
            for n in rng.permutation(count)[:asked]:
                judge: Any = self.judges[first + int(n)]
                on_real, wanted = judge.judge(real, real_spectra)
                on_made, found = judge.judge(made, made_spectra)
                parameters = list(judge.parameters())
                gradients = torch.autograd.grad(
                    blame(on_real, on_made), parameters, retain_graph=True
                )
                for p, g in zip(parameters, gradients, strict=True):
                    p.grad = g
                verdict = FOOLED * ((1 - on_made) ** 2).mean() + unlike(found, wanted)
                total = total + count / asked * verdict
        return total

    def update(self, loss: Tensor, pace: float) -> None:
        """One update of everything that has a gradient."""
        for opt, peak in ((self.opt, self.plan.rate), (self.opt_judges, self.plan.rate / 7)):
            for group in opt.param_groups:
                group["lr"] = peak * pace
        # Not backward(): that would add the decoder's loss to the discriminators' gradients.
        learning = [*self.net.parameters(), *self.source.parameters()]
        gradients = torch.autograd.grad(loss, learning, allow_unused=True)
        for p, g in zip(learning, gradients, strict=True):
            p.grad = g
        nn.utils.clip_grad_norm_(self.others, 1.0)
        self.opt.step()
        self.muon.step(5 * self.plan.rate * pace)
        self.opt_judges.step()
        self.opt_judges.zero_grad(set_to_none=True)
        # The average changes faster at the start of a run than at its end.
        share = max(self.plan.average, 1 / (self.step + 10))
        with torch.no_grad():
            for p, q in zip(self.average.parameters(), self.net.parameters(), strict=True):
                p.lerp_(q, share)
        self.step += 1


def train(work: Path, plan: Plan, device: str = "cpu", seed: int = 0) -> None:
    """Train the codec, or continue from the checkpoint ``codec.pt``.

    Args:
        work: folder of intermediate files.
        plan: the run.
        device: ``cpu`` (one thread) or ``cuda``.
        seed: of the drawing.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    data = load_sound(work / "speech")
    path = work / "codec.pt"
    if path.exists():
        saved = torch.load(path, map_location=device, weights_only=True)
        trainer = Trainer(plan, device, saved["config"])
        trainer.load(saved)
    else:
        trainer = Trainer(plan, device)
    print(
        f"{len(data.codes)} utterances, {data.hours():.1f} h, from step {trainer.step}", flush=True
    )
    rng = np.random.default_rng(seed + trainer.step)
    clock = time.process_time if device == "cpu" else time.monotonic
    begun, saved_at = clock() - trainer.spent, time.monotonic()
    recent: dict[str, float] = {}
    while True:
        trainer.spent = clock() - begun
        done = trainer.spent / (60 * plan.minutes)
        if done >= 1 or time.monotonic() - saved_at > SAVE_EVERY:
            torch.save(trainer.state(), path.with_suffix(".part"))
            path.with_suffix(".part").rename(path)
            saved_at = time.monotonic()
        if done >= 1:
            break
        shown = trainer.train_step(*stretches(data, rng, plan.batch, plan.length), done, rng)
        if trainer.step % 50 == 0:
            for key, value in shown.items():
                recent[key] = float(value)
            values = " ".join(f"{k} {x:.3f}" for k, x in recent.items())
            print(f"step {trainer.step} {trainer.spent:.0f}s {values}", flush=True)
