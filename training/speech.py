"""The teacher reads the text: sound, and when which phoneme is spoken at which pitch.

The teacher is ``hibari-tts`` (Apache-2.0, 24 kHz, its bundled voice "heart"). Its network works in
units of 600 samples for durations and 300 samples for pitch; a hidden node of its graph gives the
duration of each of its symbols. The teacher leaves 0.2 to 0.4 s of silence on both sides of a
sentence. A voice agent would wait for it, so it is cut to ``LEAD`` and ``TAIL``.

The teacher's own vocoder then renders the sound at the pitches that our codes have (see
:mod:`training.codes`), so that the codes describe the decoder's target exactly. Its pulses are
rendered without the phases of their filter and without its hiss, which are hardly heard (0.1 of a
mean opinion score). So the voiced part follows from the codes sample by sample.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from training.codes import PHASES, STEP, melody, pitch_hz
from training.grid import HOP, PAD

LEAD = 3
"""Units of near silence kept before the first sound of a sentence."""
TAIL = 8
"""Units kept after the last phoneme of a sentence (the sound itself dies away in about six)."""
SHARD = 1000
"""Utterances in one file of results."""

Float = npt.NDArray[np.float32]


@dataclass
class Spoken:
    """One utterance as the teacher spoke it.

    Attributes:
        symbols: the teacher's symbols in order, ``PAD`` at the ends of each sentence.
        units: duration of each symbol, in units of 600 samples.
        pitch: Hz per 300 samples, 0 where unvoiced.
        parts: the input of its vocoder, five arrays ``[601, steps of 300 samples]``.
    """

    symbols: str
    units: npt.NDArray[np.int64]
    pitch: Float
    parts: list[Float]


class Teacher:
    """The teacher with its durations exposed, on one thread; ``pace`` 2 reads twice as fast."""

    def __init__(self, pace: float = 1.0) -> None:
        import onnx
        import onnxruntime as ort
        from hibari import Hibari

        self.voice: Any = Hibari()
        self.pace = np.full(1, pace, np.float32)
        graph = onnx.load(self.voice.model_path)
        graph.graph.output.append(
            onnx.helper.make_tensor_value_info("/Clip_output_0", onnx.TensorProto.FLOAT, None)
        )
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.session = ort.InferenceSession(graph.SerializeToString(), options)

    def sentence(self, phonemes: str) -> Spoken:
        """Speak one sentence given as a phoneme string, silence at its ends trimmed."""
        kept = "".join(c for c in phonemes if c in self.voice.vocab)
        out = self.session.run(
            None,
            {
                "ids": np.array([self.voice.ids(kept)], np.int64),
                "speed": self.pace,
            },
        )
        pitch = np.where(out[5].reshape(-1) > 40, out[5].reshape(-1), 0).astype(np.float32)
        units = out[6].reshape(-1).astype(np.int64)
        symbols = PAD + kept + PAD
        # Leading silence: keep LEAD units of the first pad.
        front = max(0, int(units[0]) - LEAD)
        units[0] -= front
        # Trailing silence: everything after the last phoneme becomes one symbol of TAIL units.
        last = max(i for i, c in enumerate(symbols) if c not in " .,?!;:—…" + PAD)
        units = np.append(units[: last + 1], min(TAIL, int(units[last + 1 :].sum())))
        cut = slice(2 * front, 2 * (front + int(units.sum())))
        return Spoken(
            symbols[: last + 2],
            units,
            pitch[cut],
            [o[0][:, cut].astype(np.float32) for o in out[:5]],
        )

    def speak(self, text: str) -> Spoken | None:
        """Speak a text of one or more sentences; ``None`` if nothing in it can be spoken."""
        parts = [
            self.sentence(p)
            for p in self.voice.phonemize(text)
            if any(c.isalpha() for c in p if c in self.voice.vocab)
        ]
        if not parts:
            return None
        return Spoken(
            "".join(p.symbols for p in parts),
            np.concatenate([p.units for p in parts]),
            np.concatenate([p.pitch for p in parts]),
            [
                np.concatenate(arrays, axis=1)
                for arrays in zip(*(p.parts for p in parts), strict=True)
            ],
        )


def pulses(pitch: Float) -> Float:
    """The voice's pulse train, 300 samples a step of ``pitch``, at the pitch and phase of the
    codes.

    All harmonics below 11 kHz with amplitude 1, as the teacher's vocoder expects; silent where the
    teacher is unvoiced.
    """
    size = len(pitch) * HOP
    edge = np.round(np.arange(0, -(-size // STEP) + 1) * STEP / HOP).astype(np.int64)
    first = np.minimum(edge[:-1], len(pitch) - 1)
    number, phase = melody(pitch, first, np.clip(edge[1:], first + 1, len(pitch)))
    step = np.arange(size) // STEP
    hz = np.maximum(pitch_hz(number), 60.0)[step]
    turns = phase[step] / PHASES + hz * (np.arange(size) % STEP) / 24000
    t = (2 * np.pi * (turns % 1.0)).astype(np.float32)
    harmonics = (np.floor(11000 / hz) + 0.5).astype(np.float32)
    below = 2 * np.sin(t / 2)
    flat = np.abs(below) < 2e-3
    train = np.where(flat, harmonics, np.sin(harmonics * t) / np.where(flat, 1, below)) - 0.5
    voiced = np.repeat(pitch > 0, HOP) & (number[step] > 0)
    return (train * voiced).astype(np.float32)


def polar(size: Float, angle: Float) -> npt.NDArray[np.complex64]:
    """Complex numbers from their size and angle, in single precision."""
    out = np.empty(size.shape, np.complex64)
    out.real, out.imag = size * np.cos(angle), size * np.sin(angle)
    return out


def fade(sound: Float) -> Float:
    """The last 10 ms faded out, in place."""
    sound[-240:] *= np.linspace(1, 0, 240, dtype=np.float32)
    return sound


def own_sound(spoken: Spoken, rng: np.random.Generator) -> Float:
    """The teacher's own sound."""
    from hibari import dsp

    sound: Float = dsp.synth(*spoken.parts, spoken.pitch, rng)
    return fade(sound.astype(np.float32))


def render(spoken: Spoken) -> tuple[Float, Float]:
    """The decoder's target, and the voiced part of it: the teacher's filter on our pulse train."""
    from hibari import dsp

    low, _, _, rest, angle = spoken.parts
    voiced = dsp.stft(pulses(spoken.pitch), low.shape[1]) * dsp.ex(low)
    whole = voiced + polar(dsp.ex(rest), angle)
    return fade(dsp.ola(whole).astype(np.float32)), fade(dsp.ola(voiced).astype(np.float32))


def level(audio: Float) -> Float:
    """Loudness in dB (full scale) per 300 samples."""
    power = (audio[: len(audio) // HOP * HOP].reshape(-1, HOP) ** 2).mean(1)
    db: Float = (10 * np.log10(power + 1e-9)).astype(np.float32)
    return db


def lines_of(work: Path, name: str, first: int = 0, count: int | None = None) -> Path:
    """The folder of another voice in ``work``, with shards of the sentences that it reads:
    ``count`` from shard ``first`` on."""
    folder = work / name
    folder.mkdir(parents=True, exist_ok=True)
    lines = (work / "text.jsonl").read_text().splitlines()[first * SHARD :]
    chosen = lines if count is None else lines[: count * SHARD]
    (folder / "text.jsonl").write_text("\n".join(chosen) + "\n")
    return folder


def generate(
    work: Path,
    part: int = 0,
    parts: int = 1,
    shards: int | None = None,
    audio_shards: int = 16,
    pace: float = 1.0,
) -> None:
    """Have the teacher read ``text.jsonl`` into shards; shards that exist are not changed.

    Args:
        work: the folder of all intermediate files.
        part, parts: this process does every ``parts``-th shard, so several may run side by side.
        shards: only the first so many.
        audio_shards: the sound itself is kept for this many shards (the decoder learns from it).
        pace: how fast the teacher reads.
    """
    teacher = Teacher(pace)
    lines = [json.loads(line) for line in (work / "text.jsonl").read_text().splitlines()]
    folder = work / "speech"
    folder.mkdir(parents=True, exist_ok=True)
    start, seconds = time.time(), 0.0
    all_shards = [lines[i : i + SHARD] for i in range(0, len(lines), SHARD)][:shards]
    for number, shard in list(enumerate(all_shards))[part::parts]:
        path = folder / f"{number:03d}.npz"
        if path.exists():
            continue
        done = []
        for _, text in shard:
            spoken = teacher.speak(text)
            if spoken is not None:
                done.append((text, spoken, *render(spoken)))
                spoken.parts.clear()
        if number < audio_shards:
            for name, place in (("audio", 2), ("voiced", 3)):
                sound = np.concatenate([row[place] for row in done])
                pcm = (np.clip(sound, -1, 1) * 32767).astype(np.int16)
                np.save(folder / f"{number:03d}.{name}.npy", pcm)
        partial = folder / f"{number:03d}.part.npz"
        np.savez(
            partial,
            text=np.array([t for t, *_ in done]),
            symbols=np.array([s.symbols for _, s, *_ in done]),
            symbol_count=np.array([len(s.units) for _, s, *_ in done]),
            units=np.concatenate([s.units for _, s, *_ in done]).astype(np.uint8),
            pitch=np.concatenate([s.pitch for _, s, *_ in done]).astype(np.float16),
            level=np.concatenate([level(a) for _, _, a, _ in done]).astype(np.float16),
        )
        partial.rename(path)
        seconds += sum(len(a) for _, _, a, _ in done) / 24000
        print(
            f"shard {number} of {len(all_shards)}: {seconds / 3600:.2f} h of speech in"
            f" {time.time() - start:.0f} s",
            flush=True,
        )
