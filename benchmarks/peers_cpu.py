"""The bundled voice on this CPU, in this engine and in others: `python benchmarks/peers_cpu.py`.

* ours: this package's engine.
* llama.cpp: llama-cpp-python with a float16 GGUF of the same weights, and the window of 28 tokens
  on the `snac` package, as orpheus-cpp and its relatives do: seven new tokens, the last 28 decoded,
  2048 samples kept.
* transformers: `generate` in bfloat16 with the same window.

Per engine: milliseconds to the first samples, seconds of speech a second of one stream, ids a
second of one stream without the codec, and the most streams at once that all keep up with their
listeners. The others draw from the whole vocabulary, as they do; what is no frame is dropped. They
get a thread for each stream, and llama.cpp a context for each. Engines take turns; medians of the
rounds count. llama-cpp-python and gguf are built from source and no part of the test environment:
what is not there is left out, and said.
"""

from __future__ import annotations

import abc
import argparse
import asyncio
import importlib.util
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.gguf_file import write_gguf  # noqa: E402
from benchmarks.report import add_save_option, save  # noqa: E402
from orpheus_plugin.engine.config import EngineConfig  # noqa: E402
from orpheus_plugin.engine.local import LocalEngine  # noqa: E402
from orpheus_plugin.events import AudioChunk  # noqa: E402
from orpheus_plugin.tokens.base import SamplingParams  # noqa: E402
from orpheus_plugin.tokens.cpu.generator import CpuLlama  # noqa: E402
from orpheus_plugin.tokens.vocabulary import CODES, Vocabulary  # noqa: E402

MINI = ROOT / "orpheus_plugin" / "mini"
TEXT = "Your order is on its way, and it should be with you by tomorrow evening."
VOICE = "heart"
RATE = 24_000
WINDOW, FRAME = 28, 7
TEMPERATURE, TOP_P, PENALTY, MOST_IDS = 0.6, 0.8, 1.1, 700
Heard = list[tuple[float, float]]
"""(seconds since the request, seconds of audio) of each piece."""


class Snac:
    """The codec as the others use it; all streams share the model."""

    def __init__(self) -> None:
        from safetensors.torch import load_file
        from snac import SNAC

        self._model = SNAC.from_config(str(MINI / "snac" / "config.json")).eval()
        self._model.load_state_dict(load_file(MINI / "snac" / "model.safetensors"))

    @torch.inference_mode()
    def window(self, codes: list[int]) -> int:
        """Samples that are kept of a window of 28 codes."""
        frames = np.array(codes).reshape(-1, FRAME)
        levels = [frames[:, [0]], frames[:, [1, 4]], frames[:, [2, 3, 5, 6]]]
        tensors = [torch.from_numpy(level.reshape(1, -1).copy()) for level in levels]
        return int(self._model.decode(tensors)[0, 0, 2048:4096].numpy().size)


class Listener:
    """What a stream's ids become, and when."""

    def __init__(self, vocabulary: Vocabulary, snac: Snac) -> None:
        self._vocabulary, self._snac = vocabulary, snac
        self._codes: list[int] = []
        self._began = time.perf_counter()
        self.heard: Heard = []

    def take(self, token_id: int) -> None:
        slot, code = divmod(token_id - self._vocabulary.audio_base, CODES)
        if slot != len(self._codes) % FRAME:
            return
        self._codes.append(code)
        if len(self._codes) % FRAME == 0 and len(self._codes) >= WINDOW:
            samples = self._snac.window(self._codes[-WINDOW:])
            self.heard.append((time.perf_counter() - self._began, samples / RATE))


class Peer(abc.ABC):
    """Another engine for the same model, with the window on the `snac` package."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary, self._snac = vocabulary, Snac()

    def speak(self) -> Heard:
        listener = Listener(self._vocabulary, self._snac)
        self._generate(listener.take)
        return listener.heard

    def ids(self) -> int:
        """Draw one utterance's ids and count them."""
        drawn: list[int] = []
        self._generate(drawn.append)
        return len(drawn)

    @abc.abstractmethod
    def _generate(self, take: Callable[[int], None]) -> None:
        """Draw one utterance and hand over each id."""


class Transformers(Peer):
    """Hugging Face's generate."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        from transformers import LlamaForCausalLM

        super().__init__(vocabulary)
        self._model = LlamaForCausalLM.from_pretrained(MINI, dtype=torch.bfloat16)
        self._model.requires_grad_(False)

    def _generate(self, take: Callable[[int], None]) -> None:
        prompt = torch.tensor([self._vocabulary.prompt(VOICE, TEXT)])

        class Streamer:
            """Receives the prompt first, then each id."""

            def put(self, ids: torch.Tensor) -> None:
                if ids.numel() == 1:
                    take(int(ids))

            def end(self) -> None:
                """Nothing is left."""

        self._model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=True,
            temperature=TEMPERATURE,
            top_p=TOP_P,
            top_k=0,
            repetition_penalty=PENALTY,
            max_new_tokens=MOST_IDS,
            eos_token_id=self._vocabulary.end_of_speech,
            pad_token_id=self._vocabulary.end_of_speech,
            streamer=Streamer(),
        )


class LlamaCpp(Peer):
    """llama-cpp-python. A context belongs to one stream, so each thread has its own."""

    def __init__(self, vocabulary: Vocabulary, folder: Path) -> None:
        super().__init__(vocabulary)
        self._file = folder / "mini.gguf"
        write_gguf(MINI, self._file)
        self._idle: list[Any] = []

    def _generate(self, take: Callable[[int], None]) -> None:
        from llama_cpp import Llama

        try:
            model = self._idle.pop()
        except IndexError:
            model = Llama(str(self._file), n_ctx=2048, n_threads=1, verbose=False)
        prompt = self._vocabulary.prompt(VOICE, TEXT)
        sampling = {"temp": TEMPERATURE, "top_p": TOP_P, "top_k": 0, "repeat_penalty": PENALTY}
        model.reset()
        for count, token_id in enumerate(model.generate(prompt, **sampling)):
            if token_id == self._vocabulary.end_of_speech or count == MOST_IDS:
                break
            take(token_id)
        self._idle.append(model)


class Ours:
    """This package's engine, on a loop that runs during each call."""

    def __init__(self, vocabulary: Vocabulary, most: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._engine = LocalEngine(EngineConfig(model="mini", device="cpu", max_turns=most))
        self._generator = CpuLlama(MINI, vocabulary, max_streams=1)
        self._prompt = vocabulary.prompt(VOICE, TEXT)
        self._loop.run_until_complete(self._start())

    def together(self, count: int) -> list[Heard]:
        return self._loop.run_until_complete(self._together(count))

    def ids(self) -> int:
        """Draw one utterance's ids and count them."""
        return self._loop.run_until_complete(self._ids())

    def close(self) -> None:
        self._loop.run_until_complete(self._engine.aclose())
        self._loop.run_until_complete(self._generator.aclose())

    async def _start(self) -> None:
        await self._engine.start()
        await self._generator.start()

    async def _together(self, count: int) -> list[Heard]:
        return await asyncio.gather(*(self._speak() for _ in range(count)))

    async def _speak(self) -> Heard:
        began = time.perf_counter()
        heard: Heard = []
        async with self._engine.open_turn() as turn:
            turn.push_text(TEXT)
            turn.end()
            async for event in turn:
                if isinstance(event, AudioChunk):
                    heard.append((time.perf_counter() - began, event.samples / RATE))
        return heard

    async def _ids(self) -> int:
        sampling = SamplingParams(
            temperature=TEMPERATURE, top_p=TOP_P, repetition_penalty=PENALTY, max_tokens=MOST_IDS
        )
        chunks = self._generator.generate(self._prompt, sampling, "ids")
        return sum([len(chunk.ids) async for chunk in chunks])


def keeps_up(heard: Heard) -> bool:
    """Whether a listener who plays from the first piece on never waits for more than 5 ms."""
    until = heard[0][0] if heard else 0.0
    for at, seconds in heard:
        if at > until + 0.005:
            return False
        until += seconds
    return bool(heard)


def figures(
    together: Callable[[int], list[Heard]], ids: Callable[[], int], most: int
) -> dict[str, float]:
    began = time.perf_counter()
    ids_per_s = ids() / (time.perf_counter() - began)
    began = time.perf_counter()
    (heard,) = together(1)
    took = time.perf_counter() - began
    streams = 0
    for count in (1, 2, 4, 6, 8, 12, 16, 24, 32):
        if count > most or not all(keeps_up(one) for one in together(count)):
            break
        streams = count
    spoken = sum(seconds for _, seconds in heard)
    first = heard[0][0] if heard else float("nan")
    return {
        "first_ms": 1e3 * first,
        "speech_s_per_s": spoken / took,
        "ids_per_s": ids_per_s,
        "streams": streams,
    }


def threads(speak: Callable[[], Heard]) -> Callable[[int], list[Heard]]:
    """Have an engine that blocks speak to several listeners at once."""

    def together(count: int) -> list[Heard]:
        with ThreadPoolExecutor(count) as pool:
            return [job.result() for job in [pool.submit(speak) for _ in range(count)]]

    return together


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--most", type=int, default=32, help="streams tried at once")
    parser.add_argument("--out", default="peers_cpu", help="name of the file of results")
    add_save_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    vocabulary = Vocabulary.load(MINI)
    own = Ours(vocabulary, options.most)
    engines: dict[str, tuple[Callable[[int], list[Heard]], Callable[[], int]]] = {
        "ours": (own.together, own.ids)
    }
    left_out = []
    with tempfile.TemporaryDirectory() as folder:
        peers: dict[str, Peer] = {}
        if all(importlib.util.find_spec(name) for name in ("llama_cpp", "gguf")):
            peers["llama.cpp"] = LlamaCpp(vocabulary, Path(folder))
        else:
            left_out.append("llama.cpp: llama-cpp-python or gguf is not installed")
        peers["transformers"] = Transformers(vocabulary)
        for name, peer in peers.items():
            engines[name] = threads(peer.speak), peer.ids
        taken: dict[str, list[dict[str, float]]] = {name: [] for name in engines}
        for together, _ in engines.values():
            together(1)  # warms up
        for _ in range(options.rounds):
            for name, (together, ids) in engines.items():
                taken[name].append(figures(together, ids, options.most))
    own.close()
    print("| engine | first sound, ms | s of speech a second | ids/s | streams in real time |")
    print("|---|---|---|---|---|")
    rows = {}
    for name, rounds in taken.items():
        row = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        rows[name] = row
        cells = f"{row['first_ms']:.0f} | {row['speech_s_per_s']:.1f}"
        cells += f" | {row['ids_per_s']:.0f} | {row['streams']:.0f}"
        print(f"| {name} | {cells} |")
    for line in left_out:
        print("left out:", line)
    save(options.out, {"text": TEXT, "left_out": left_out, "engines": rows})


if __name__ == "__main__":
    main()
