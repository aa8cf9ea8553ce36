"""Train the language model: batches, losses, optimisers, checkpoints."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training import vocabulary as v
from training.codes import ROWS, VOICES, Utterance, frames, load, spoken_in
from training.lm import Size, VoiceModel
from training.muon import FAST, Muon

WEIGHTS = (2.0, 0.5, 2.0, 2.0, 0.5, 2.0, 2.0)
"""What a token of each slot counts in the loss. Pitch and loudness are mostly chance: unweighted
they make nine tenths of the loss, and the words suffer."""


UNMARKED = 0.3
"""Share of utterances that are learned without the mark at their end, as titles and list lines are
written."""

WARM_UP = 60
"""Steps in which the learning rate rises."""
CHECKPOINT = 200
"""Steps between two checkpoints."""
HELD = 32
"""Utterances of each voice that the validation sees; no batch has the first 96."""


@dataclass
class Batch:
    """Padded sequences and what is to be learned at each place.

    Attributes:
        ids: ``[B, T]``.
        speech: ``[B, T]``, true where ``ids`` is a speech token (or the stop) to be predicted.
        look: ``[B, T, 2]``, places that the guided heads should attend to when the token *after*
            this place is predicted: the letter being read, and the end of its word; -1 for none.
        spell: ``[W, 2]`` rows and places of word ends, and ``spelling [W, 14]`` their phonemes.
    """

    ids: Tensor
    speech: Tensor
    look: Tensor
    spell: Tensor
    spelling: Tensor


def word_ends(text: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    """For each letter index (and one past the end) the first place at or after it where a word
    ends."""
    out = np.empty(len(text) + 2, np.int64)
    out[-1] = out[-2] = end = len(text)
    for i in range(len(text) - 1, -1, -1):
        if not (text[i].isalpha() or text[i] in "'-") and i > 0 and text[i - 1].isalpha():
            end = i
        out[i] = end
    return out


def unmarked(u: Utterance) -> Utterance:
    """The same speech without the marks at the end of its text; a token that read a mark reads the
    text's end.

    A question mark stays: without it, nothing tells how the pitch ends.
    """
    text = u.text.rstrip(" ,.!:'-")
    return replace(u, text=text, pointers=np.minimum(u.pointers, len(text)))


def sequence(u: Utterance, speed: float) -> tuple[list[int], np.ndarray[Any, Any], int]:
    """Token ids of an utterance, where each speech token reads, and the prompt's length."""
    f = frames(u, speed)
    head = v.prompt(u.text, u.voice)
    ids = (f.codes + v.AUDIO + ROWS * np.arange(7)).reshape(-1)
    return [*head, *ids.tolist(), v.END_OF_SPEECH], f.reading.reshape(-1), len(head)


def collate(batch: list[Utterance], speed: float) -> Batch:
    """Sequences of similar length as one padded batch."""
    # "twenty-one" is also written "twenty one": same length, same sound.
    batch = [
        replace(u, text=u.text.replace("-", " ")) if "-" in u.text and len(u.text) % 2 else u
        for u in batch
    ]
    rows = [sequence(u, speed) for u in batch]
    longest = max(len(r[0]) for r in rows)
    ids = np.full((len(rows), longest), v.PAD, np.int64)
    speech = np.zeros((len(rows), longest), bool)
    look = np.full((len(rows), longest, 2), -1, np.int64)
    spell, spelling = [], []
    for i, ((tokens, reading, head), u) in enumerate(zip(rows, batch, strict=True)):
        ids[i, : len(tokens)] = tokens
        speech[i, head : len(tokens)] = True
        ends = word_ends(u.text)
        start = v.text_start(u.voice)
        look[i, head - 1 : head - 1 + len(reading), 0] = start + reading
        look[i, head - 1 : head - 1 + len(reading), 1] = start + ends[reading]
        for end, phonemes in u.word_phonemes:
            spell.append((i, start + end))
            padded = np.zeros(VoiceModel.word_length, np.int64)
            kept = phonemes[: VoiceModel.word_length]
            padded[: len(kept)] = kept
            spelling.append(padded)
    return Batch(
        torch.from_numpy(ids),
        torch.from_numpy(speech),
        torch.from_numpy(look),
        torch.tensor(spell),
        torch.from_numpy(np.stack(spelling)),
    )


class Sampler:
    """Draws batches of utterances of similar length, a share of them without their end marks.

    Args:
        data: everything to learn from.
        tokens: rough number of tokens in a batch.
        seed: of the drawing.
    """

    def __init__(self, data: list[Utterance], tokens: int, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.tokens = tokens
        size = np.array([[len(u.text) + 14, 7 * (u.units.sum() * 600 / 2048 + 1)] for u in data])
        order = np.argsort(size.sum(1))
        self.data = [data[i] for i in order]
        self.size = size[order]

    def draw(self, speed: float, long: float) -> Batch:
        """A batch at a reading speed; ``long`` 0 favours short utterances, 1 treats all alike."""
        length = self.size[:, 0] + self.size[:, 1] / speed
        weight = length**long
        at = int(np.searchsorted(np.cumsum(weight), self.rng.random() * weight.sum()))
        start = end = max(0, at)
        while (end + 1 - start) * length[min(end, len(length) - 1)] < self.tokens and end < len(
            self.data
        ):
            end += 1
        chosen = self.data[start : max(end, start + 1)]
        drop = self.rng.random(len(chosen)) < UNMARKED
        return collate([unmarked(u) if d else u for u, d in zip(chosen, drop, strict=True)], speed)


def losses(
    net: VoiceModel, b: Batch, guide: bool, teach_spelling: bool = True
) -> dict[str, Tensor]:
    """Losses of a batch: speech tokens, guided heads, spelled words.

    With ``teach_spelling`` false the speller learns and the layers do not: at first it would
    mislead them.
    """
    with torch.autocast("cpu", FAST, enabled=torch.float32 != FAST):
        h, looks, middle = net(b.ids[:, :-1], guide=guide)
        wanted = b.speech[:, 1:]
        each = net.table.loss(h[wanted], b.ids[:, 1:][wanted])
        slot = ((b.ids[:, 1:][wanted] - v.AUDIO) // ROWS).clamp(min=-1)
    # The stop (slot -1) counts as a phoneme does.
    weight = torch.tensor([*WEIGHTS, WEIGHTS[2]])[slot]
    out = {"each": each, "speech": (weight * each).sum() / weight.sum()}
    if guide and looks is not None and middle is not None:
        look = b.look[:, :-1]
        known = (look[..., 0] >= 0).nonzero(as_tuple=True)
        score = 0.0
        for head in range(2):
            rows = looks[:, head][known]
            score = score - rows.gather(1, look[..., head][known][:, None]).clamp(min=-8).mean()
        out["look"] = torch.as_tensor(score) / 2
        state = middle[b.spell[:, 0], b.spell[:, 1]]
        if not teach_spelling:
            state = state.detach()
        with torch.autocast("cpu", FAST, enabled=torch.float32 != FAST):
            logits = net.speller(state).view(-1, 64)
        out["spell"] = F.cross_entropy(logits.float(), b.spelling.reshape(-1))
    return out


@torch.no_grad()
def validate(net: VoiceModel, batches: list[Batch]) -> str:
    """Loss a token per level on whole sentences, and how much worse it gets with random text."""
    kinds = np.zeros(4)
    total: list[float] = []
    wrong: list[float] = []
    counts = np.zeros(4)
    for b in batches:
        each = losses(net, b, False)["each"]
        ids = b.ids[:, 1:][b.speech[:, 1:]]
        slot = (ids - v.AUDIO) // ROWS
        for k, sel in enumerate(
            (
                slot == 0,
                (slot == 1) | (slot == 4),
                (slot == 2) | (slot == 3) | (slot == 5) | (slot == 6),
                ids == v.END_OF_SPEECH,
            )
        ):
            kinds[k] += float(each[sel].sum())
            counts[k] += int(sel.sum())
        total.append(float(each.mean()))
        if wrong:
            continue
        text = (b.ids >= v.FIRST_LETTER) & (b.ids < v.CUSTOM)
        text[:, : v.text_start(v.VOICE)] = False
        scrambled = Batch(
            torch.where(text, torch.randint(3, 29, b.ids.shape), b.ids),
            b.speech,
            b.look,
            b.spell,
            b.spelling,
        )
        wrong.append(float(losses(net, scrambled, False)["speech"]))
    names = ("coarse", "middle", "fine", "stop")
    shown = " ".join(f"{n} {k / c:.3f}" for n, k, c in zip(names, kinds, counts, strict=True))
    return f"loss {np.mean(total):.3f} ({shown}); random text +{wrong[0] - total[0]:.3f}"


def train(
    work: Path,
    minutes: float,
    name: str = "lm",
    tokens: int = 4600,
    seed: int = 0,
    fast_until: float = 0.3,
    cool_from: float = 0.6,
    peak: float = 1.0,
) -> None:
    """Train for some minutes of processor time, or continue from the checkpoint.

    Args:
        work: folder of intermediate files.
        minutes: length of the whole run; the schedule (reading speed, learning rate) spans it.
        name: checkpoint name.
        tokens: tokens in a batch.
        fast_until: share of the run by which the reading speed has come down from 2.5 to 1.
            0 for a model that is trained already.
        cool_from: share of the run from which the learning rate falls to zero.
        peak: what the learning rate is multiplied with.
    """
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(seed)
    checks: dict[str, list[Batch]] = {}
    data: list[Utterance] = []
    for voice in VOICES:
        spoken = load(spoken_in(work, voice), voice=voice)
        held = spoken[:HELD]
        bare = [unmarked(u) for u in held]
        for kind, some in ((voice, held), (f"{voice}, unmarked", bare)):
            checks[kind] = [collate(some[i : i + 16], 1.0) for i in range(0, len(some), 16)]
        data += spoken[96:]
    voices = sorted({u.voice for u in data}, key=list(VOICES).index)
    sampler = Sampler(data, tokens, seed)
    hours = sum(int(u.units.sum()) for u in data) * 600 / 24000 / 3600
    net = VoiceModel(Size())
    average = VoiceModel(Size())
    matrices = [p for p in net.blocks.parameters() if p.dim() == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in net.parameters() if id(p) not in chosen]
    muon = Muon(matrices)
    adam = torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.98), weight_decay=0.0)
    path = work / f"{name}.pt"
    step, spent, seen = 0, 0.0, 0
    if path.exists():
        saved = torch.load(path, weights_only=True)
        net.load_state_dict(saved["net"])
        average.load_state_dict(saved["average"])
        if "step" in saved:  # not from `restore`, which knows the weights only
            adam.load_state_dict(saved["adam"])
            muon.momentum = saved["muon"]
            step, spent, seen = saved["step"], saved["spent"], saved["seen"]
        sampler.rng = np.random.default_rng(seed + step)
    else:
        average.load_state_dict(net.state_dict())
    count = sum(p.numel() for p in net.blocks.parameters())
    print(f"{len(data)} utterances, {hours:.1f} h; {count / 1e6:.2f} M in layers", flush=True)
    begun = time.process_time() - spent
    recent: dict[str, float] = {}
    while True:
        spent = time.process_time() - begun
        done = spent / (60 * minutes)
        finish = done >= 1
        if step % CHECKPOINT == 0 or finish:
            state = {
                "net": net.state_dict(),
                "average": average.state_dict(),
                "adam": adam.state_dict(),
                "muon": muon.momentum,
                "step": step,
                "spent": spent,
                "seen": seen,
                "size": net.size.as_dict(),
                "voices": voices,
            }
            torch.save(state, path.with_suffix(".part"))
            path.with_suffix(".part").rename(path)
            for kind, check in checks.items():
                if check:
                    print(f"  {kind}: {validate(net, check)}", flush=True)
                    if finish:
                        print(f"  {kind}, averaged: {validate(average, check)}", flush=True)
            if finish:
                break
        slow = min(1.0, done / fast_until) if fast_until else 1.0
        speed = 1.0 if slow >= 1 else float(2.5 - 1.5 * slow)
        rate = peak * min(1.0, (step + 1) / WARM_UP)
        rate *= min(1.0, max(0.01, (1 - done) / (1 - cool_from)))
        batch = sampler.draw(speed, min(1.0, 2 * done) if fast_until else 1.0)
        found = losses(net, batch, True, step >= WARM_UP)
        loss = found["speech"] + 0.15 * found["look"] + 0.15 * found["spell"]
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(others, 1.0)
        for group in adam.param_groups:
            group["lr"] = 3e-3 * rate
        adam.step()
        adam.zero_grad(set_to_none=True)
        muon.step(0.02 * rate)
        step += 1
        seen += int(batch.speech.sum())
        with torch.no_grad():
            keep = min(0.995, step / (step + 10))
            for p, q in zip(average.parameters(), net.parameters(), strict=True):
                p.lerp_(q, 1 - keep)
        for key in ("speech", "look", "spell"):
            value = float(found[key].detach())
            recent[key] = 0.95 * recent.get(key, value) + 0.05 * value
        if step % 50 == 0:
            values = " ".join(f"{k} {x:.3f}" for k, x in recent.items())
            print(
                f"step {step} {spent:.0f}s {values} speed {speed:.2f} {seen / spent:.0f} tokens/s",
                flush=True,
            )
            with open(work / f"{name}.log.jsonl", "a") as log:
                log.write(json.dumps({"step": step, "spent": spent, "seen": seen, **recent}) + "\n")
