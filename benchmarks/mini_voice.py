"""How well the bundled model speaks: ``python benchmarks/mini_voice.py`` (or ``--sentences 20``,
``--voice henry``).

Each held-out sentence is spoken by the files in ``orpheus_plugin/mini`` alone (transformers' Llama,
plain sampling over the whole vocabulary, no mask; snac's decoder), heard by Whisper tiny.en and
scored by DistillMOS. Printed: word error rate and naturalness beside the teacher's own, the share
of utterances that stop by themselves, tokens out of their slot's order, duration against the
teacher's, median pitch of the codes, and the speed of both models on one thread. ``--teacher``
(needs the ``train`` extra) also has the teacher read the sentences: its sound, and its own codes
through our codec without the language model.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from orpheus_plugin.evaluation.judge import Listener, errors  # noqa: E402
from orpheus_plugin.evaluation.naturalness import Naturalness  # noqa: E402

MODEL = ROOT / "orpheus_plugin" / "mini"
HELD_OUT = Path(__file__).with_name("mini_held_out.json")
ROWS, SLOTS = 4096, 7
PHASES, LEVELS, PITCH_BASE = 4, 24, 15
PITCH_STEP_HZ = 24000 / 1024 / PHASES
"""What a row of the middle level means: pitch, phase, loudness."""
BATCH = 25
SHORTEST = 4800
"""Samples below which DistillMOS has nothing to score (0.2 s)."""


@dataclass
class Spoken:
    """One sentence as the voice spoke it; ``natural`` is its mean opinion score as DistillMOS
    predicts it, ``pitch`` the median of its codes' in Hz."""

    kind: str
    text: str
    heard: str
    wrong: int
    words: int
    natural: float
    stopped: bool
    tokens: int
    out_of_order: int
    pitch: float
    seconds: float
    teacher_seconds: float


class Voice:
    """One voice of the exported files, run by the reference implementations on one thread."""

    def __init__(self, folder: Path = MODEL, name: str | None = None) -> None:
        from safetensors.torch import load_file
        from snac import SNAC
        from tokenizers import Tokenizer
        from transformers import LlamaForCausalLM

        torch.set_num_threads(1)
        self.lm: Any = LlamaForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
        self.lm.train(False)
        self.codec: Any = SNAC(**json.loads((folder / "snac" / "config.json").read_text()))
        self.codec.load_state_dict(load_file(folder / "snac" / "model.safetensors"))
        self.codec.eval()
        self.tokens: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        voices = json.loads((folder / "config.json").read_text())["orpheus"]["voices"]
        self.voice = name or voices[0]
        self.defaults = json.loads((folder / "generation_config.json").read_text())
        ids: dict[str, int] = self.tokens.get_vocab()
        self.stop = ids["<custom_token_2>"]
        self.audio = ids["<custom_token_10>"]

    def prompt(self, text: str) -> list[int]:
        """Orpheus' prompt."""
        one = self.tokens.token_to_id
        around = [one(f"<custom_token_{n}>") for n in (3, 4, 5, 1)]
        inner = self.tokens.encode(f"{self.voice}: {text}").ids
        return [around[0], *inner, one("<|eot_id|>"), *around[1:]]

    @torch.no_grad()
    def generate(self, texts: list[str], seed: int = 0) -> list[tuple[list[int], bool]]:
        """Sampled ids of each text (the stop id left out), and whether the stop id came by itself.

        Sampling is the model's own (``generation_config.json``), over the whole vocabulary.
        """
        prompts = [self.prompt(t) for t in texts]
        longest = max(map(len, prompts))
        pad = int(self.defaults["pad_token_id"])
        ids = torch.tensor([[pad] * (longest - len(p)) + p for p in prompts])
        seen = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
        torch.manual_seed(seed)
        most = SLOTS * (20 + 3 * max(map(len, texts)))
        out = self.lm.generate(ids, attention_mask=seen, max_new_tokens=most, top_k=0)
        result = []
        for row in out[:, longest:].tolist():
            stopped = self.stop in row
            result.append((row[: row.index(self.stop)] if stopped else row, stopped))
        return result

    def frames(self, ids: list[int]) -> tuple[npt.NDArray[np.int64], int]:
        """Codes of whole frames, ``[frames, 7]``, and the number of ids out of their slot's
        order."""
        slots = (np.array(ids, np.int64) - self.audio) // ROWS
        out_of_order = int((slots != np.arange(len(ids)) % SLOTS).sum())
        frames = np.array(ids[: len(ids) // SLOTS * SLOTS], np.int64).reshape(-1, SLOTS)
        return (frames - self.audio) % ROWS, out_of_order

    @torch.no_grad()
    def sound(self, frames: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Sound of codes ``[frames, 7]``, ``[2048 * frames]``."""
        if not len(frames):
            return np.zeros(0, np.float32)
        codes = torch.from_numpy(frames)[None]
        levels = [codes[:, :, s].flatten(1) for s in ([0], [1, 4], [2, 3, 5, 6])]
        torch.manual_seed(0)
        sound: npt.NDArray[np.float32] = self.codec.decode(levels)[0, 0].numpy()
        return sound


def median_pitch(frames: npt.NDArray[np.int64]) -> float:
    """Median pitch of the voiced codes in Hz, 0 if there are none (see ``training/codes.py``)."""
    number = frames[:, [1, 4]] // (PHASES * LEVELS)
    number = number[number > 0]
    return float(np.median(number) + PITCH_BASE) * PITCH_STEP_HZ if len(number) else 0.0


def held_out(count: int) -> list[dict[str, Any]]:
    """The first ``count`` held-out sentences; kinds come evenly mixed."""
    sentences: list[dict[str, Any]] = json.loads(HELD_OUT.read_text())["sentences"]
    return sentences[:count]


def say(voice: Voice, lines: list[dict[str, Any]]) -> list[tuple[list[int], bool]]:
    """Ids of each sentence and whether it stopped, ``BATCH`` sentences of similar length at a
    time."""
    order = sorted(range(len(lines)), key=lambda i: len(lines[i]["text"]))
    spoken: dict[int, tuple[list[int], bool]] = {}
    for start in range(0, len(order), BATCH):
        some = order[start : start + BATCH]
        made = voice.generate([lines[i]["text"] for i in some], seed=start)
        spoken |= dict(zip(some, made, strict=True))
    return [spoken[i] for i in range(len(lines))]


def measure(
    count: int,
    sounds: Path | None = None,
    show: bool = False,
    voice: Voice | None = None,
) -> list[Spoken]:
    """Speak ``count`` held-out sentences and hear them."""
    voice, lines = voice or Voice(), held_out(count)
    return listen(voice, lines, say(voice, lines), sounds, show)


def listen(
    voice: Voice,
    lines: list[dict[str, Any]],
    spoken: list[tuple[list[int], bool]],
    sounds: Path | None = None,
    show: bool = False,
) -> list[Spoken]:
    """Decode what was said, have it heard, compare."""
    listener, naturalness = Listener(), Naturalness()
    found = []
    for i, line in enumerate(lines):
        ids, stopped = spoken[i]
        frames, out_of_order = voice.frames(ids)
        sound = voice.sound(frames)
        heard = listener(sound)
        wrong, words = errors(line["text"], heard)
        seconds = len(sound) / 24000
        found.append(
            Spoken(
                line["kind"],
                line["text"],
                heard,
                wrong,
                words,
                naturalness(sound) if len(sound) > SHORTEST else 1.0,
                stopped,
                len(ids),
                out_of_order,
                median_pitch(frames),
                seconds,
                line["teacher_seconds"],
            )
        )
        if show:
            print(f"{wrong}/{words} {found[-1].natural:.2f} {line['text']} | {heard}", flush=True)
        if sounds:
            from scipy.io import wavfile

            sounds.mkdir(parents=True, exist_ok=True)
            pcm = (np.clip(sound, -1, 1) * 32767).astype(np.int16)
            wavfile.write(sounds / f"{i:03d}.wav", 24000, pcm)
    return found


def speed(sentences: int = 3) -> dict[str, float]:
    """Real-time factors of both models alone, one stream on one thread, in processor time."""
    voice = Voice()
    spent = {"lm": 0.0, "codec": 0.0}
    seconds = 0.0
    for line in held_out(sentences):
        begun = time.process_time()
        [(ids, _)] = voice.generate([line["text"]])
        middle = time.process_time()
        sound = voice.sound(voice.frames(ids)[0])
        spent["lm"] += middle - begun
        spent["codec"] += time.process_time() - middle
        seconds += len(sound) / 24000
    return {f"{name}_x_real_time": seconds / s for name, s in spent.items()}


def teacher(count: int) -> dict[str, float]:
    """Word error rate and naturalness of the teacher, and of its own codes through our codec."""
    from training.codes import frames
    from training.evaluate import teacher_reading

    voice, listener, naturalness = Voice(), Listener(), Naturalness()
    wrong, words, natural = {"teacher": 0, "codec": 0}, 0, {"teacher": 0.0, "codec": 0.0}
    lines = held_out(count)
    for i, line in enumerate(lines):
        reading, own = teacher_reading(line["text"], i)
        for name, sound in (("teacher", own), ("codec", voice.sound(frames(reading).codes))):
            wrong[name] += errors(line["text"], listener(sound))[0]
            natural[name] += naturalness(sound)
        words += line["words"]
    return {f"{name}_wer": n / words for name, n in wrong.items()} | {
        f"{name}_natural": n / len(lines) for name, n in natural.items()
    }


def summary(found: list[Spoken]) -> dict[str, float]:
    """The figures."""
    lines = held_out(len(found))
    ratio = [s.seconds / s.teacher_seconds for s in found]
    figures = {
        "sentences": float(len(found)),
        "words": float(sum(s.words for s in found)),
        "wer": sum(s.wrong for s in found) / sum(s.words for s in found),
        "teacher_wer": sum(t["teacher_wrong"] for t in lines) / sum(t["words"] for t in lines),
        "natural": float(np.mean([s.natural for s in found])),
        "teacher_natural": float(np.mean([t["teacher_natural"] for t in lines])),
        "stopped": sum(s.stopped for s in found) / len(found),
        "out_of_order": sum(s.out_of_order for s in found) / max(1, sum(s.tokens for s in found)),
        "pitch_hz": float(np.median([s.pitch for s in found])),
        "duration_mean": float(np.mean(ratio)),
        "duration_longest": float(max(ratio)),
    }
    for kind in sorted({s.kind for s in found}):
        of = [s for s in found if s.kind == kind]
        figures[f"wer {kind}"] = sum(s.wrong for s in of) / sum(s.words for s in of)
    return figures


def main() -> None:
    """Parse the arguments, measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sentences", type=int, default=200)
    parser.add_argument("--model", type=Path, default=MODEL, help="folder of the model")
    parser.add_argument("--voice", help="default: the model's first")
    parser.add_argument("--sounds", type=Path, help="also write WAV files here")
    parser.add_argument(
        "--teacher", action="store_true", help="also measure the teacher and the codec alone"
    )
    parser.add_argument("--json", type=Path, help="write figures and sentences here")
    args = parser.parse_args()
    voice = Voice(args.model, args.voice)
    found = measure(args.sentences, args.sounds, show=True, voice=voice)
    figures = summary(found) | speed()
    if args.teacher:
        figures |= teacher(args.sentences)
    for name, value in figures.items():
        print(f"{name:20s} {value:10.3f}")
    if args.json:
        args.json.write_text(
            json.dumps({"figures": figures, "sentences": [asdict(s) for s in found]}, indent=1)
        )


if __name__ == "__main__":
    main()
