"""A second voice on the bundled model: a LoRA adapter, trained in minutes of a core, in PEFT's
layout.

The teacher has one voice. At another pace and pitch it sounds like another speaker, and the codec's
codes have both (see :mod:`training.codes`). The language model learns to write such codes when the
prompt names the new voice. Its own weights do not change.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training import vocabulary as v
from training.codes import ROWS, Utterance, frames, load
from training.export import LAYER_NAMES, write_json
from training.lm import Size, VoiceModel
from training.lm_train import Batch, losses
from training.restore import restore
from training.speech import generate, lines_of

RATE = 2e-3
"""AdamW's highest learning rate; it rises over 40 steps and falls to 0 along a cosine."""
HELD = 64
"""Utterances that only the validation sees."""


class LowRank(nn.Module):
    """A frozen matrix and what the adapter adds to it: ``x W' + (alpha / rank) x A' B'``."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base = base
        self.scale = alpha / rank
        self.a = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.b = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in]`` to ``[..., out]``."""
        added = F.linear(F.linear(x, self.a), self.b)
        total: Tensor = self.base(x) + self.scale * added
        return total


def adapt(net: VoiceModel, rank: int, alpha: float) -> list[nn.Parameter]:
    """Freeze the model and put an adapter on every matrix of its layers; the adapter's
    parameters."""
    for p in net.parameters():
        p.requires_grad_(False)
    for block in net.blocks:
        for name in LAYER_NAMES:
            setattr(block, name, LowRank(getattr(block, name), rank, alpha))
    return [p for p in net.parameters() if p.requires_grad]


def save(net: VoiceModel, folder: Path, rank: int, alpha: float, base: str) -> None:
    """Write adapter_config.json and adapter_model.safetensors (bfloat16), as PEFT does."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for i, block in enumerate(net.blocks):
        for ours, theirs in LAYER_NAMES.items():
            at = f"base_model.model.model.layers.{i}.{theirs}"
            matrix = getattr(block, ours)
            tensors[f"{at}.lora_A.weight"] = matrix.a.detach().to(torch.bfloat16).contiguous()
            tensors[f"{at}.lora_B.weight"] = matrix.b.detach().to(torch.bfloat16).contiguous()
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    (folder / "adapter_model.safetensors").chmod(0o644)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": [name.split(".")[-1] for name in LAYER_NAMES.values()],
        "inference_mode": True,
    }
    write_json(folder / "adapter_config.json", config)


@torch.no_grad()
def go_on(net: VoiceModel, folder: Path) -> None:
    """Load the weights of an adapter that was written before, if there is one."""
    path = folder / "adapter_model.safetensors"
    if not path.exists():
        return
    saved = load_file(path)
    for i, block in enumerate(net.blocks):
        for ours, theirs in LAYER_NAMES.items():
            at = f"base_model.model.model.layers.{i}.{theirs}"
            matrix = getattr(block, ours)
            matrix.a.copy_(saved[f"{at}.lora_A.weight"])
            matrix.b.copy_(saved[f"{at}.lora_B.weight"])


def sequences(some: list[Utterance], voice: str) -> Batch:
    """Prompts that name the voice, their codes and the stop id, as one padded batch."""
    rows = []
    for u in some:
        codes = frames(u).codes + v.AUDIO + ROWS * np.arange(7)
        rows.append((v.prompt(u.text, voice), [*codes.reshape(-1).tolist(), v.END_OF_SPEECH]))
    longest = max(len(head) + len(ids) for head, ids in rows)
    ids = np.full((len(rows), longest), v.PAD, np.int64)
    speech = np.zeros((len(rows), longest), bool)
    for i, (head, tail) in enumerate(rows):
        ids[i, : len(head) + len(tail)] = head + tail
        speech[i, len(head) : len(head) + len(tail)] = True
    nothing = torch.zeros(0, dtype=torch.int64)
    return Batch(torch.from_numpy(ids), torch.from_numpy(speech), nothing, nothing, nothing)


def batches(
    data: list[Utterance], voice: str, tokens: int, rng: np.random.Generator
) -> Iterator[Batch]:
    """Batches of some ``tokens`` of utterances of similar length, endlessly, in random order."""
    size = [len(u.text) + 14 + 7 * (int(u.units.sum()) * 600 / 2048 + 1) for u in data]
    order = np.argsort(size)
    groups: list[list[Utterance]] = [[]]
    for i in order:
        if (len(groups[-1]) + 1) * size[i] > tokens and groups[-1]:
            groups.append([])
        groups[-1].append(data[i])
    while True:
        for i in rng.permutation(len(groups)):
            yield sequences(groups[i], voice)


def train(
    work: Path,
    base: Path,
    to: Path,
    *,
    voice: str,
    pace: float,
    pitch: float,
    minutes: float,
    rank: int,
    shards: int,
    tokens: int = 4600,
) -> None:
    """Train an adapter of the model in ``base`` and write it to the folder ``to``. An adapter that
    is there already is trained further.

    Args:
        work: folder of intermediate files, with the sentences of ``python -m training text``.
        voice: the name that prompts give it.
        pace: how fast the teacher reads; 1 is its own pace.
        pitch: what the teacher's pitch is multiplied with.
        minutes: of processor time.
        rank: of the adapter; its alpha is the same.
        shards: thousands of sentences that the teacher reads.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    own = lines_of(work, voice, count=shards)
    generate(own, audio_shards=0, pace=pace)
    data = [replace(u, pitch=u.pitch * pitch) for u in load(own / "speech")]
    held, data = data[:HELD], data[HELD:]
    if not (own / "lm.pt").exists():
        restore(base, own)
    net = VoiceModel(Size())
    net.load_state_dict(torch.load(own / "lm.pt", weights_only=True)["average"])
    parameters = adapt(net, rank, float(rank))
    go_on(net, to)
    hours = sum(int(u.units.sum()) for u in data) * 600 / 24000 / 3600
    count = sum(p.numel() for p in parameters)
    print(f"{len(data)} utterances, {hours:.1f} h; {count / 1e6:.2f} M to learn", flush=True)
    adam = torch.optim.AdamW(parameters, lr=RATE, betas=(0.9, 0.98), weight_decay=0.0)
    rng = np.random.default_rng(0)
    checks = [sequences(held[i::4], voice) for i in range(4)]
    begun, recent = time.process_time(), 0.0
    for step, batch in enumerate(batches(data, voice, tokens, rng)):
        done = (time.process_time() - begun) / (60 * minutes)
        if step % 100 == 0 or done >= 1:
            print(f"  held out: {validate(net, checks)}", flush=True)
            save(net, to, rank, float(rank), base.name)
        if done >= 1:
            break
        for group in adam.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 40) * (1 + np.cos(np.pi * done)) / 2
        loss = losses(net, batch, False)["speech"]
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        adam.step()
        adam.zero_grad(set_to_none=True)
        recent = float(loss.detach()) if not step else 0.95 * recent + 0.05 * float(loss.detach())
        if step % 20 == 0:
            print(f"step {step} {60 * minutes * done:.0f}s loss {recent:.3f}", flush=True)


@torch.no_grad()
def validate(net: VoiceModel, checks: list[Batch]) -> str:
    """Loss a token, of pitch and loudness (middle level) apart from the rest."""
    each = torch.cat([losses(net, b, False)["each"] for b in checks]).float()
    ids = torch.cat([b.ids[:, 1:][b.speech[:, 1:]] for b in checks])
    slot = (ids - v.AUDIO) // ROWS
    middle = (slot == 1) | (slot == 4)
    return f"middle {float(each[middle].mean()):.3f}, others {float(each[~middle].mean()):.3f}"


def listed(folder: Path) -> str:
    """One line of a report on a written adapter."""
    config = json.loads((folder / "adapter_config.json").read_text())
    size = (folder / "adapter_model.safetensors").stat().st_size
    return f"{folder}: rank {config['r']}, {size / 1e6:.2f} MB"
