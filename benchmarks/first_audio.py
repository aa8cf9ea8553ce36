"""How soon a listener hears the first sound: ``python benchmarks/first_audio.py``.

Simulated, so that the load of the machine does not matter: tokens come at so many a second, and
each step of the codec takes the CPU time it took (one stream, one thread). Per token rate, medians
over the utterances:

* tokens and milliseconds from the first token to the first samples;
* milliseconds until the listener, who plays from the first samples on, hears something louder than
  -45 dBFS;
* milliseconds of silence because the next samples came too late (playing never pauses otherwise);
* seconds of CPU a second of speech.

By default the utterances are spoken by the bundled voice. ``--codec DIR --codes FILE.npz`` takes
another codec and arrays int [n, 3]. With neither, the full-size decoder with random weights gives
the times. Peers need 28 tokens and drop the first 85 ms.
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
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import numpy.typing as npt
import torch

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.report import add_save_option, save  # noqa: E402
from orpheus_plugin.codec.batcher import CodecBatcher  # noqa: E402
from orpheus_plugin.codec.cpu.decoder import CpuDecoder  # noqa: E402
from orpheus_plugin.codec.weights import SnacWeights  # noqa: E402
from orpheus_plugin.engine.playout import PlayoutClock  # noqa: E402

MINI = ROOT / "orpheus_plugin" / "mini"
SAMPLE_RATE = 24000
AUDIBLE = 10 ** (-45 / 20)
TOKENS_OF_ROW = (3, 4, 6, 7)  # of its frame, after which a row of codes is complete
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
Codes = npt.NDArray[np.int64]


@dataclass
class Result:
    """What the listener of one utterance got."""

    tokens: int
    first_ms: float
    audible_ms: float
    silence_ms: float
    cpu_per_second: float


class Simulation:
    """A clock that moves only when it is set, and by the CPU time of the codec's work."""

    def __init__(self, decoder: SnacWeights) -> None:
        self.now = 0.0
        self.batcher = CodecBatcher(CpuDecoder(decoder, slots=1), clock=lambda: self.now)

    async def work(self) -> None:
        begin = time.thread_time()
        self.batcher.run_ready()
        self.now += time.thread_time() - begin
        for _ in range(4):  # the listening task takes what came
            await asyncio.sleep(0)


async def listen(
    simulation: Simulation,
    codes: Codes,
    rate: float,
) -> Result:
    begin = simulation.now
    clock = PlayoutClock(lambda: simulation.now)
    stream = simulation.batcher.open_stream(seed=1, deadline=lambda: clock.ends_at)
    got: list[tuple[int, float, npt.NDArray[np.float32]]] = []  # tokens so far, seconds, samples
    tokens = 0

    async def follow() -> None:
        async for piece in stream:
            got.append((tokens, simulation.now - begin, piece))
            clock.play(len(piece) / SAMPLE_RATE)

    following = asyncio.create_task(follow())
    cpu = time.thread_time()
    for number, row in enumerate(codes):
        tokens = 7 * (number // 4) + TOKENS_OF_ROW[number % 4]
        simulation.now = max(simulation.now, begin + (tokens - 1) / rate)
        stream.push(row[None])
        await simulation.work()
    stream.finish()
    await simulation.work()
    await following
    cpu = time.thread_time() - cpu
    samples = np.concatenate([piece for *_, piece in got])
    loud = int(np.argmax(np.abs(samples) > AUDIBLE))
    first = plays_until = got[0][1]
    silence, offset, audible = 0.0, 0, first
    for _, now, piece in got:
        silence += max(0.0, now - plays_until)
        plays_until = max(plays_until, now)
        if offset <= loud < offset + len(piece):
            audible = plays_until + (loud - offset) / SAMPLE_RATE
        offset += len(piece)
        plays_until += len(piece) / SAMPLE_RATE
    length = len(samples) / SAMPLE_RATE
    return Result(
        got[0][0],
        first * 1e3,
        audible * 1e3,
        silence * 1e3,
        cpu / length,
    )


async def mini_codes() -> list[Codes]:
    """The sentences above as the bundled voice says them."""
    from orpheus_plugin.tokens.base import SamplingParams
    from orpheus_plugin.tokens.cpu.generator import CpuLlama
    from orpheus_plugin.tokens.frames import FrameAssembler
    from orpheus_plugin.tokens.vocabulary import Vocabulary

    vocabulary = Vocabulary.load(MINI)
    generator = CpuLlama(MINI, vocabulary)
    await generator.start()
    said = []
    for number, text in enumerate(SENTENCES):
        assembler, rows = FrameAssembler(vocabulary), []
        sampling = SamplingParams(repetition_penalty=1.0, max_tokens=700, seed=number)
        async for chunk in generator.generate(
            vocabulary.prompt("heart", text), sampling, str(number)
        ):
            rows.append(assembler.push(chunk.ids))
        said.append(np.concatenate(rows).astype(np.int64))
    await generator.aclose()
    return said


def random_codec() -> tuple[SnacWeights, list[Codes]]:
    from snac import SNAC

    from orpheus_plugin.codec.config import SnacConfig
    from tests.support.codecs import FULL_SIZE

    torch.manual_seed(0)
    config = SnacConfig.from_dict(FULL_SIZE)
    state = {name: tensor.numpy() for name, tensor in SNAC(**FULL_SIZE).state_dict().items()}
    decoder = SnacWeights.from_state(config, state)
    codes = np.random.default_rng(0).integers(0, 4096, (1, 60, 3))
    return decoder, list(codes)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_save_option(parser)
    parser.add_argument("--codec", type=Path, help="SNAC snapshot directory")
    parser.add_argument("--codes", type=Path, help="npz of int arrays [n, 3]")
    parser.add_argument("--rates", default="90,120,200", help="tokens a second (82 is real time)")
    parser.add_argument(
        "--at-once", type=int, default=4, help="utterances running at the same time"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.codec and options.codes:
        name, decoder = options.codec.name, SnacWeights.load(options.codec)
        with np.load(options.codes) as file:
            said = [file[key].astype(np.int64) for key in file.files]
    elif (MINI / "snac" / "config.json").is_file():
        name, decoder, said = "bundled", SnacWeights.load(MINI / "snac"), await mini_codes()
    else:
        name, (decoder, said) = "random weights, full size", random_codec()
    rows: list[dict[str, Any]] = []
    heads = (
        "tokens/s",
        "tokens",
        "first ms",
        "audible ms",
        "silence ms",
        "CPU s/s",
    )
    print(f"codec: {name}; {len(said)} utterances\n" + "".join(f"{head:>12}" for head in heads))
    for rate in (float(part) for part in options.rates.split(",")):
        simulation = Simulation(decoder)
        await listen(simulation, said[0], rate)  # warms up
        heard = [asdict(await listen(simulation, codes, rate)) for codes in said]
        row = {key: statistics.median(one[key] for one in heard) for key in heard[0]}
        rows.append({"tokens_per_second": rate, **row})
        print(f"{rate:>12.0f}" + "".join(f"{value:>12.2f}" for value in row.values()))
    save("first_audio", {"codec": name, "utterances": len(said), "rows": rows})


if __name__ == "__main__":
    asyncio.run(main())
