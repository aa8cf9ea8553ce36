"""How soon a listener hears something, exact and with the fast start: ``python benchmarks/first_audio.py``.

Utterances arrive in real time at so many tokens a second, all at once in one CodecBatcher. Per token rate and way of starting,
medians over the utterances:

* tokens and milliseconds from the first token to the first samples;
* milliseconds until the listener, who plays from the first samples on, hears something louder than -45 dBFS;
* milliseconds of silence because the next samples came too late (playing never pauses otherwise);
* for the fast start: how many milliseconds were guessed, and how far below the signal their error is (dB).

By default the utterances are spoken by the bundled voice. ``--codec DIR --latents FILE.npz`` takes another codec and arrays
int [n, 3]. With neither, the full-size decoder with random weights gives the times, and no error worth reading.
Peers need 28 tokens and drop the first 85 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import numpy.typing as npt
import torch

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.report import save  # noqa: E402
from orpheus_plugin.codec import CodecBatcher, SnacDecoder, load_decoder  # noqa: E402
from orpheus_plugin.codec.streaming import StreamingDecoder  # noqa: E402

MINI = ROOT / "orpheus_plugin" / "mini"
SAMPLE_RATE = 24000
AUDIBLE = 10 ** (-45 / 20)
TOKENS_OF_LATENT = (3, 4, 6, 7)  # of its frame, after which a latent is complete
SENTENCES = (
    "Hello there, how are you doing today?",
    "Your appointment is on Tuesday at three.",
    "Yes.",
    "I have found two flights that may suit you.",
    "Could you please repeat that?",
    "Thank you for calling, goodbye.",
    "One moment, let me look that up for you.",
    "The weather will be fine this afternoon.",
)
Latents = npt.NDArray[np.int64]


@dataclass
class Heard:
    """One utterance as its listener got it."""

    tokens: int
    first_ms: float
    audible_ms: float
    dry_ms: float
    guessed_ms: float
    error_db: float


async def listen(
    batcher: CodecBatcher,
    latents: Latents,
    wanted: npt.NDArray[np.float32],
    rate: float,
    fast: bool,
) -> Heard:
    stream = batcher.open_stream(seed=1, fast_start=fast)
    begin = time.monotonic()
    pushed = 0

    async def speak() -> None:
        nonlocal pushed
        for number, row in enumerate(latents):
            tokens = 7 * (number // 4) + TOKENS_OF_LATENT[number % 4]
            await asyncio.sleep(max(0.0, begin + (tokens - 1) / rate - time.monotonic()))
            stream.push(row[None])
            pushed = tokens
        stream.finish()

    speaking = asyncio.create_task(speak())
    pieces: list[npt.NDArray[np.float32]] = []
    tokens, first, dry, runs_dry = 0, 0.0, 0.0, 0.0
    starts: list[float] = []  # when the first sample of each piece is heard
    async for piece in stream:
        now = time.monotonic() - begin
        if not pieces:
            tokens, first, runs_dry = pushed, now, now
        dry += max(0.0, now - runs_dry)
        runs_dry = max(runs_dry, now)
        starts.append(runs_dry)
        runs_dry += len(piece) / SAMPLE_RATE
        pieces.append(piece)
    await speaking
    got = np.concatenate(pieces)
    loud = int(np.argmax(np.abs(got) > AUDIBLE))
    offset, audible = 0, first
    for start, piece in zip(starts, pieces, strict=True):
        if loud < offset + len(piece):
            audible = start + (loud - offset) / SAMPLE_RATE
            break
        offset += len(piece)
    wrong = np.abs(got - wanted) > 1e-4
    until = len(wrong) - int(np.argmax(wrong[::-1])) if wrong.any() else 0
    error = float(np.mean((got - wanted)[:until] ** 2)) if until else 0.0
    below = 10 * np.log10(float(np.mean(wanted**2)) / error) if error else float("inf")
    return Heard(tokens, first * 1e3, audible * 1e3, dry * 1e3, until * 1e3 / SAMPLE_RATE, below)


async def mini_latents() -> list[Latents]:
    """The sentences above as the bundled voice says them."""
    from orpheus_plugin.generators.base import Sampling
    from orpheus_plugin.generators.torch_llama import TorchLlama
    from orpheus_plugin.vocabulary import LatentAssembler, Vocabulary

    vocabulary = Vocabulary.load(MINI)
    generator = TorchLlama(MINI, vocabulary, threads=1)
    await generator.start()
    said = []
    for number, text in enumerate(SENTENCES):
        assembler, rows = LatentAssembler(vocabulary), []
        sampling = Sampling(repetition_penalty=1.0, max_tokens=700, seed=number)
        async for chunk in generator.generate(
            vocabulary.prompt("heart", text), sampling, str(number)
        ):
            rows.append(assembler.push(chunk.ids))
        said.append(np.concatenate(rows).astype(np.int64))
    await generator.aclose()
    return said


def random_codec() -> tuple[SnacDecoder, list[Latents]]:
    from snac import SNAC

    from benchmarks.codec import FULL_SIZE
    from orpheus_plugin.codec.decoder import SnacConfig, fold_weights

    torch.manual_seed(0)
    config = SnacConfig.from_dict(FULL_SIZE)
    decoder = SnacDecoder(config, fold_weights(config, SNAC(**FULL_SIZE).state_dict()))
    codes = np.random.default_rng(0).integers(0, 4096, (1, 60, 3))
    return decoder, list(codes)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--codec", type=Path, help="SNAC snapshot directory")
    parser.add_argument("--latents", type=Path, help="npz of int arrays [n, 3]")
    parser.add_argument("--rates", default="90,120,200", help="tokens a second (82 is real time)")
    parser.add_argument(
        "--at-once", type=int, default=4, help="utterances running at the same time"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.codec and options.latents:
        name, decoder = options.codec.name, load_decoder(options.codec)
        with np.load(options.latents) as file:
            said = [file[key].astype(np.int64) for key in file.files]
    elif (MINI / "snac" / "config.json").is_file():
        name, decoder, said = "bundled", load_decoder(MINI / "snac"), await mini_latents()
    else:
        name, (decoder, said) = "random weights, full size", random_codec()
    wanted = [StreamingDecoder(decoder, slots=1).decode(latents, seed=1) for latents in said]
    rows = []
    heads = (
        "tokens/s",
        "start",
        "tokens",
        "first ms",
        "audible ms",
        "dry ms",
        "guessed ms",
        "error dB",
    )
    print(f"codec: {name}; {len(said)} utterances\n" + "".join(f"{head:>12}" for head in heads))
    for rate in (float(part) for part in options.rates.split(",")):
        for fast in (False, True):
            batcher = CodecBatcher(decoder, slots=max(1, options.at_once))
            batcher.start()
            heard: list[Heard] = []
            for at in range(0, len(said), options.at_once):
                group = slice(at, at + options.at_once)
                heard += await asyncio.gather(
                    *(
                        listen(batcher, latents, whole, rate, fast)
                        for latents, whole in zip(said[group], wanted[group], strict=True)
                    )
                )
            batcher.close()
            row = {
                key: statistics.median(asdict(one)[key] for one in heard)
                for key in asdict(heard[0])
            }
            start = "fast" if fast else "exact"
            rows.append({"tokens_per_second": rate, "start": start} | row)
            print(
                f"{rate:>12.0f}{start:>12}" + "".join(f"{value:>12.1f}" for value in row.values()),
                flush=True,
            )
    save(
        "first_audio",
        {"codec": name, "utterances": len(said), "at_once": options.at_once, "rows": rows},
    )


if __name__ == "__main__":
    asyncio.run(main())
