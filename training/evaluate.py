"""Measure checkpoints while they train: codec alone, or language model and codec together."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from orpheus_plugin.evaluation.judge import Listener, errors
from orpheus_plugin.evaluation.naturalness import Naturalness
from training import vocabulary as v
from training.codec import Codec
from training.codes import ROWS, Utterance, frames
from training.lm import Size, VoiceModel


def held_out(work: Path, count: int) -> list[tuple[str, str]]:
    """``count`` held-out sentences (kind, text), as many of each kind."""
    groups = json.loads((work / "held_out.json").read_text())
    tagged = [(i / len(g), kind, text) for kind, g in groups.items() for i, text in enumerate(g)]
    return [(kind, text) for _, kind, text in sorted(tagged)[:count]]


def load_lm(work: Path, name: str = "lm", which: str = "average") -> VoiceModel:
    """The language model of a checkpoint."""
    saved = torch.load(work / f"{name}.pt", weights_only=True)
    net = VoiceModel(Size(**saved["size"]))
    net.load_state_dict(saved[which])
    return net.eval()


@torch.no_grad()
def generate(
    net: VoiceModel,
    text: str,
    temperature: float,
    top_p: float,
    rng: torch.Generator,
    table: torch.Tensor,
) -> tuple[list[int], bool]:
    """Sample an utterance's speech ids over the whole vocabulary; whether it stopped by itself."""
    caches: list[list[torch.Tensor]] = [[] for _ in net.blocks]
    prompt = v.prompt(text)
    h, _, _ = net(torch.tensor([prompt]), caches=caches)
    out: list[int] = []
    limit = 7 * (12 + 3 * len(text))
    while len(out) < limit:
        logits = (h[0, -1] @ table.t()) / temperature
        p, order = torch.softmax(logits, -1).sort(descending=True)
        keep = p.cumsum(0) - p < top_p
        picked = int(order[torch.multinomial(p * keep, 1, generator=rng)])
        if picked == v.END_OF_SPEECH:
            return out, True
        out.append(picked)
        h, _, _ = net(torch.tensor([[picked]]), caches=caches, start=len(prompt) + len(out) - 1)
    return out, False


def as_frames(ids: list[int]) -> tuple[npt.NDArray[np.int64], int]:
    """Whole frames ``[n, 7]`` of codes, and how many ids were out of their slot's order."""
    wrong = sum((i - v.AUDIO) // ROWS != k % 7 for k, i in enumerate(ids))
    rows = np.array(ids[: len(ids) // 7 * 7], np.int64).reshape(-1, 7) - v.AUDIO
    return np.clip(rows - ROWS * np.arange(7), 0, ROWS - 1), wrong


def teacher_reading(text: str, seed: int) -> tuple[Utterance, npt.NDArray[np.float32]]:
    """The teacher's reading of a text as an utterance, and the teacher's sound at its own pitch."""
    from training.codes import PHONEME_INDEX
    from training.speech import Teacher, level, own_sound, render

    global _teacher
    if _teacher is None:
        _teacher = Teacher()
    s = _teacher.speak(text)
    loud = level(render(s)[0])
    phonemes = np.array([PHONEME_INDEX.get(c, PHONEME_INDEX["ə"]) for c in s.symbols])
    nowhere = np.zeros(len(s.units), np.int64)
    utterance = Utterance(text.lower(), phonemes, s.units, nowhere, s.pitch, loud, [])
    return utterance, own_sound(s, np.random.default_rng(seed))


_teacher: Any = None


@torch.no_grad()
def evaluate(
    work: Path,
    count: int = 24,
    what: str = "lm",
    temperature: float = 0.6,
    top_p: float = 0.8,
    sounds: Path | None = None,
    name: str = "lm",
) -> None:
    """Print word error rates and naturalness over held-out sentences.

    Args:
        what: ``teacher`` (its own sound), ``codec`` (its codes through our codec) or ``lm``.
        sounds: folder for WAV files, if wanted.
    """
    torch.set_num_threads(1)
    listener, naturalness = Listener(), Naturalness()
    codec = Codec.load(work / "codec.pt")
    net = load_lm(work, name) if what == "lm" else None
    table = net.table.full() if net else torch.zeros(0)
    rng = torch.Generator().manual_seed(0)
    wrong: dict[str, int] = {}
    total: dict[str, int] = {}
    stops = disorder = made_tokens = 0
    ratios, natural, lm_time, codec_time, seconds = [], [], 0.0, 0.0, 0.0
    for n, (kind, text) in enumerate(held_out(work, count)):
        reading, sound = teacher_reading(text, n)
        length = len(sound)
        if what == "lm" and net:
            begun = time.time()
            ids, stopped = generate(net, text, temperature, top_p, rng, table)
            lm_time += time.time() - begun
            codes, bad = as_frames(ids)
            stops += stopped
            disorder += bad
            made_tokens += len(ids)
        else:
            codes = frames(reading).codes
        if what != "teacher" and len(codes):
            begun = time.time()
            sound = codec(torch.from_numpy(codes)[None])[0].numpy()
            codec_time += time.time() - begun
        seconds += len(sound) / 24000
        ratios.append(len(sound) / length)
        heard = listener(sound)
        natural.append(naturalness(sound))
        e, w = errors(text, heard)
        for key in (kind, "all"):
            wrong[key] = wrong.get(key, 0) + e
            total[key] = total.get(key, 0) + w
        print(f"{e}/{w} {natural[-1]:.2f} x{ratios[-1]:.2f} {text} | {heard}", flush=True)
        if sounds:
            from scipy.io import wavfile

            sounds.mkdir(parents=True, exist_ok=True)
            pcm = (np.clip(sound, -1, 1) * 32767).astype(np.int16)
            wavfile.write(sounds / f"{n:03d}.wav", 24000, pcm)
    for key in wrong:
        print(f"{what} {key}: WER {100 * wrong[key] / total[key]:.1f} % of {total[key]} words")
    print(f"{what} naturalness: {np.mean(natural):.2f} of 5")
    print(f"duration against the teacher: mean {np.mean(ratios):.2f}, longest {max(ratios):.2f}")
    if what == "lm":
        print(
            f"stopped by themselves {stops} of {count}; out of order {disorder} of {made_tokens}; "
            f"lm {seconds / lm_time:.1f} x real time, codec {seconds / codec_time:.1f} x"
        )


def write_held_out(work: Path, path: Path) -> None:
    """Write the 200 held-out sentences with the teacher's duration, errors and score, for the
    benchmark."""
    torch.set_num_threads(1)
    listener, naturalness = Listener(), Naturalness()
    begun = work / "held_out_read.jsonl"
    rows = [json.loads(r) for r in begun.read_text().splitlines()] if begun.exists() else []
    for n, (kind, text) in list(enumerate(held_out(work, 10**6)))[len(rows) :]:
        _, sound = teacher_reading(text, n)
        heard = listener(sound)
        wrong, count = errors(text, heard)
        row = {
            "kind": kind,
            "text": text,
            "words": count,
            "teacher_seconds": round(len(sound) / 24000, 3),
            "teacher_wrong": wrong,
            "teacher_heard": heard,
            "teacher_natural": round(naturalness(sound), 2),
        }
        rows.append(row)
        with open(begun, "a") as out:
            out.write(json.dumps(row) + "\n")
    path.write_text(json.dumps({"sentences": rows}, indent=1, ensure_ascii=False) + "\n")
    wrong, count = (sum(int(r[k]) for r in rows) for k in ("teacher_wrong", "words"))
    print(
        f"{len(rows)} sentences, {count} words, teacher's word error rate"
        f" {100 * wrong / count:.1f} %"
    )
