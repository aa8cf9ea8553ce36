"""What the speech engine costs over vLLM alone: `python benchmarks/engine_cost.py`.

ids/s of N listeners at once on one vLLM, in three alternating ways, so that other work of the
machine hardly changes their ratios:

* alone: N requests to vLLM's AsyncLLM, as its documentation shows, the ids discarded;
* decoded: the same, and every id decoded to sound by the codec, which any speech server must do;
* engine: N turns of LocalEngine, from text to events.

On a machine without a GPU vLLM runs the crafted test checkpoint with a cheap sampler (temperature
only), and the codec is one with 16 channels to 1, which has the operations of a real one and hardly
any arithmetic: a real one would fill the cores and hide the figure that is measured here. Beside
the wall clock, the processor time of this process (engine, codec and caller; vLLM runs in another)
for an id.

Where everything shares the cores, what this process computes may be taken from vLLM. So there is a
second view, `--pinned`: vLLM on one core and this process on another, as where the model runs on a
GPU. There the engine slows vLLM only if it keeps it waiting.

    python benchmarks/engine_cost.py [--streams 1 8 32] [--full-codec] [--pinned]
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
for _name, _value in (("OMP_NUM_THREADS", "1"), ("HF_HUB_OFFLINE", "1")):
    os.environ.setdefault(_name, _value)

from benchmarks.report import save  # noqa: E402
from benchmarks.vllm_models import Choice, arguments_of, options_for  # noqa: E402
from benchmarks.vllm_raw import Runs, children, medians, pin, ratio, raw_ids, speed  # noqa: E402
from orpheus_plugin.codec import open_decoder  # noqa: E402
from orpheus_plugin.codec.batcher import CodecBatcher  # noqa: E402
from orpheus_plugin.codec.stream import CodecStream  # noqa: E402
from orpheus_plugin.engine.config import EngineConfig  # noqa: E402
from orpheus_plugin.engine.local import LocalEngine  # noqa: E402
from orpheus_plugin.events import TurnEnd  # noqa: E402
from orpheus_plugin.models.files import ModelFiles, ModelSpec  # noqa: E402
from orpheus_plugin.options import SpeechOptions  # noqa: E402
from orpheus_plugin.tokens.base import SamplingParams  # noqa: E402
from orpheus_plugin.tokens.frames import FrameAssembler  # noqa: E402
from orpheus_plugin.tokens.vllm.generator import VllmGenerator  # noqa: E402
from orpheus_plugin.tokens.vocabulary import Vocabulary  # noqa: E402

T = TypeVar("T")

TEXT = "It is a fine day for a walk by the sea."
"""One utterance, so that a turn is one request as the others are."""


class Vllm(VllmGenerator):
    """Remembers the loop it runs on: AsyncLLM may be used there only."""

    loop: asyncio.AbstractEventLoop

    async def start(self) -> None:
        self.loop = asyncio.get_running_loop()
        await super().start()

    async def there(self, work: Coroutine[Any, Any, T]) -> T:
        """Run on that loop."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.loop))


class Bench:
    def __init__(
        self, engine: LocalEngine, vllm: Vllm, choice: Choice, codec: CodecBatcher
    ) -> None:
        self.engine = engine
        self.vllm = vllm
        self.vocabulary = choice.vocabulary
        self.codec = codec
        self.sampling = engine.files.spec.sampling
        self.prompt = self.vocabulary.prompt("tara", TEXT)
        self.number = 0

    async def _request(self, stream: CodecStream | None) -> int:
        self.number += 1
        count, assembler = 0, FrameAssembler(self.vocabulary)
        async for ids in raw_ids(
            self.vllm.engine,
            self.prompt,
            self.sampling,
            stop=self.vocabulary.end_of_speech,
            request_id=f"cost-{self.number}",
            interval=1 if stream is None else 7,
        ):
            count += len(ids)
            if stream is not None:
                stream.push(assembler.push(ids))
        return count

    async def alone(self) -> int:
        return await self.vllm.there(self._request(None))

    async def decoded(self) -> int:
        async def speak() -> int:
            stream = self.codec.open_stream()

            async def feed() -> int:
                try:
                    return await self._request(stream)
                finally:
                    stream.finish()

            feeding = asyncio.create_task(feed())
            async for _ in stream:
                pass
            return await feeding

        return await self.vllm.there(speak())

    async def turn(self) -> int:
        async with self.engine.open_turn(SpeechOptions()) as turn:
            turn.push_text(TEXT)
            turn.end()
            async for event in turn:
                if isinstance(event, TurnEnd):
                    return event.stats.tokens
        raise AssertionError("a turn without its end")

    async def compare(self, streams: int, rounds: int) -> dict[str, Any]:
        runs = {"alone": self.alone, "decoded": self.decoded, "engine": self.turn}
        found: dict[str, Runs] = {name: [] for name in runs}
        for number in range(rounds + 1):
            # In another order each round, so that none always comes after the same one.
            names = list(runs)[number % 3 :] + list(runs)[: number % 3]
            for name in names:
                result = await speed(runs[name], streams)
                if number:  # the first round warms up
                    found[name].append(result)
        row = medians(found)
        for name in ("alone", "decoded"):
            row[f"engine_to_{name}"] = ratio(found["engine"], found[name])
        return row


async def main() -> None:
    parser = arguments_of(__doc__, ids=280, rounds=5)
    parser.add_argument("--full-codec", action="store_true", help="a codec of SNAC's own size")
    parser.add_argument("--pinned", action="store_true", help="vLLM on a core of its own")
    args = parser.parse_args()
    choice = Choice.of(args)

    from tests.support.codecs import FULL_SIZE, SMALL, random_codec

    logging.getLogger("orpheus_plugin").setLevel(logging.ERROR)  # turns are cut short on purpose
    full = args.full_codec or choice.gpu
    device = "cuda" if choice.gpu else "cpu"
    sampling = (
        SamplingParams(max_tokens=args.ids)
        if choice.gpu
        else SamplingParams(top_p=1.0, repetition_penalty=1.0, max_tokens=args.ids)
    )
    spec = ModelSpec(choice.name, voices=("tara",), sampling=sampling)
    files = ModelFiles(
        spec, choice.directory, random_codec(FULL_SIZE if full else SMALL | {"decoder_dim": 16})
    )
    most = max(args.streams)
    made: list[Vllm] = []

    def make(files: ModelFiles, vocabulary: Vocabulary) -> Vllm:
        options = options_for(choice, most, quantization=args.quantization)
        made.append(Vllm(files.lm, vocabulary, options))
        return made[0]

    config = EngineConfig(device=device, max_turns=most, look_ahead=1, ahead_s=None)
    engine = LocalEngine(config, files=files, generator=make)
    await engine.start()
    codec = CodecBatcher(open_decoder(files.codec, device=device, slots=most))
    codec.start()
    bench = Bench(engine, made[0], choice, codec)
    figures: dict[str, Any] = {
        "model": choice.name,
        "codec": "full size" if full else "16 channels to 1",
        "pinned": args.pinned,
        "sampling": str(sampling),
        "rounds": args.rounds,
    }
    if args.pinned:
        ours, theirs = sorted(os.sched_getaffinity(0))[:2]
        pin(os.getpid(), ours)
        for process in children():
            pin(process, theirs)
    print(
        "| streams | vLLM alone ids/s | decoded | engine | engine to alone, to decoded"
        " | CPU us an id: alone, decoded, engine |"
    )
    print("|---|---|---|---|---|---|")
    figures["streams"] = {}
    for streams in args.streams:
        row = await bench.compare(streams, args.rounds)
        figures["streams"][streams] = row
        save(args.out or f"engine_cost{'_gpu' if choice.gpu else ''}", figures)
        names = ("alone", "decoded", "engine")
        speeds = " | ".join(f"{row[name]['ids_per_s']:.0f}" for name in names)
        costs = ", ".join(f"{row[name]['cpu_us_per_id']:.0f}" for name in names)
        ratios = f"{row['engine_to_alone']:.3f}, {row['engine_to_decoded']:.3f}"
        print(f"| {streams} | {speeds} | {ratios} | {costs} |", flush=True)
    await engine.aclose()
    codec.close()


if __name__ == "__main__":
    asyncio.run(main())
