"""Injected deaths of an engine's parts at random moments:
``python benchmarks/engine_deaths.py --engine torch --codec torch --deaths 400``.

While up to three turns speak, an exception of a random kind is raised at a random bytecode of the
token generator's or the codec's thread, or in the engine's loop; token servers lose all their
connections, vLLM's process is killed or stopped. `--engine remote` is a client whose server is
killed, and that does not continue at the next one. Every turn that used a dead part must get an
error, and the next turn must be spoken. Reported: how many, the time from a death (of a thread: its
log line; of a server or vLLM's process: the kill; of a part that hangs: the moment it counts as
dead) to the last turn that got its error, and the process' memory.

`--add-to FILE` keeps the runs in that results' file; `--seconds` ends the run earlier.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import logging
import multiprocessing
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.report import add_save_option, save  # noqa: E402
from orpheus_plugin import codec as codec_package  # noqa: E402
from orpheus_plugin import worker_thread  # noqa: E402
from orpheus_plugin.engine.config import EngineConfig, GeneratorName  # noqa: E402
from orpheus_plugin.engine.local import LocalEngine  # noqa: E402
from orpheus_plugin.errors import OrpheusError  # noqa: E402
from orpheus_plugin.models.files import ModelFiles, ModelSpec  # noqa: E402
from orpheus_plugin.remote.engine import RemoteEngine  # noqa: E402
from orpheus_plugin.tokens.vocabulary import Vocabulary  # noqa: E402
from tests.support.checkpoints import SMALL_TEXT, crafted_checkpoint  # noqa: E402
from tests.support.codecs import random_codec  # noqa: E402
from tests.support.deaths import interrupt, kill, listen, speak, worker_threads  # noqa: E402
from tests.support.mortal_servers import MortalServers  # noqa: E402
from tests.support.token_servers import openai_server  # noqa: E402

KINDS = (RuntimeError, MemoryError, ValueError, SystemExit, KeyboardInterrupt, GeneratorExit)
ENGINES = ("cpu", "torch", "completions", "vllm", "remote")
HUNG_S = 180.0
"""Without an event of any turn. vLLM on a processor takes 40 s and more to start again."""

STANDSTILL_S = 3.0
"""In place of the ten seconds after which vLLM counts as hanging."""

Kill = Callable[[random.Random], str]
"""Something dies; its name."""


class DeathNotices(logging.Handler):
    """When a thread of the engine last said that it died. Other lines of the log are dropped: there
    is a traceback a death."""

    def __init__(self) -> None:
        super().__init__()
        self.last: float | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.levelno == logging.ERROR:
            self.last = self.last or time.monotonic()


notices = DeathNotices()


def kill_a_thread(engine: LocalEngine) -> Kill:
    def strike(chance: random.Random) -> str:
        where = chance.choice([*worker_threads(engine), "orpheus-engine"])
        if where == "orpheus-engine":
            kind: type[BaseException] = chance.choice((SystemExit, KeyboardInterrupt))
            interrupt(engine, kind)
        else:
            kind = chance.choice(KINDS)
            kill(engine, where, kind)
        return f"{where} {kind.__name__}"

    return strike


@contextlib.asynccontextmanager
async def running(
    name: str, decoder: str
) -> AsyncIterator[tuple[LocalEngine | RemoteEngine, list[Kill]]]:
    """An engine, and the ways to kill it."""
    lm = crafted_checkpoint(text=SMALL_TEXT)
    spec = ModelSpec("crafted", voices=("tara", "leo"), tags=("laugh",), license="none")
    files = ModelFiles(spec, lm, random_codec())
    if name == "remote":
        async with MortalServers(files) as servers:
            remote = RemoteEngine(None, locate=servers.locate, resume_within_s=0)
            await remote.start()

            def kill_it(chance: random.Random) -> str:
                servers.kill()
                return "server SIGKILL"

            yield remote, [kill_it]
            await remote.aclose()
        return
    if decoder == "torch":
        codec_package.open_decoder = _torch_decoder  # type: ignore[assignment]
    async with contextlib.AsyncExitStack() as stack:
        urls: tuple[str, ...] = ()
        ways: list[Kill] = []
        if name == "completions":
            # Here: vLLM's process imports this file, and its search for kernels fails over numba's.
            from orpheus_plugin.tokens.cpu.generator import CpuLlama

            inner = CpuLlama(lm, Vocabulary.load(lm), max_streams=8)
            await inner.start()
            stack.push_async_callback(inner.aclose)
            connections: set[asyncio.BaseTransport] = set()
            stop_id = Vocabulary.load(lm).end_of_speech
            urls = (await stack.enter_async_context(openai_server(inner, stop_id, connections)),)

            def cut(chance: random.Random) -> str:
                for transport in list(connections):
                    assert isinstance(transport, asyncio.Transport)
                    transport.abort()
                return "token server"

            ways.append(cut)
        elif name == "vllm":
            worker_thread.STEP_LIMIT_S = STANDSTILL_S

            def end(chance: random.Random) -> str:
                (core,) = (
                    child
                    for child in multiprocessing.active_children()
                    if child.name.startswith("EngineCore")
                )
                how = chance.choice((signal.SIGKILL, signal.SIGSTOP))
                os.kill(core.pid or 0, how)
                return f"vLLM {how.name}"

            ways.append(end)
        # Without a limit on how far it is ahead, a turn has something in the engine until its end.
        config = EngineConfig(
            device="cpu",
            generator=cast("GeneratorName", name),
            urls=urls,
            max_turns=4,
            ahead_s=None,
            measure=False,
        )
        engine = LocalEngine(config, files=files)
        await engine.start()
        stack.push_async_callback(engine.aclose)
        yield engine, [kill_a_thread(engine), *ways]


def _torch_decoder(snapshot: Path, *, device: str, slots: int, **_: object) -> Any:
    from orpheus_plugin.codec.torch.step import TorchDecoder
    from orpheus_plugin.codec.weights import SnacWeights

    return TorchDecoder(SnacWeights.load(snapshot), slots=slots, device=device)


async def one(
    engine: LocalEngine | RemoteEngine, ways: list[Kill], chance: random.Random
) -> tuple[str, float]:
    """The outcome of one death, and seconds until the last turn got its error."""
    what = "before its death"
    try:
        async with asyncio.timeout(HUNG_S) as hung:

            def progress() -> None:
                if not hung.expired():
                    hung.reschedule(asyncio.get_running_loop().time() + HUNG_S)

            async def follow() -> tuple[str, float]:
                """How a turn ended, and when. One that had nothing in what died may be spoken to
                its end, long after the others were told."""
                return await listen(engine, progress), time.monotonic()

            turns = [asyncio.create_task(follow()) for _ in range(chance.randint(1, 3))]
            await asyncio.sleep(chance.uniform(0.0, 0.3))
            parts = None
            if isinstance(engine, LocalEngine):
                while (parts := engine._supervisor.parts) is None:  # noqa: ASYNC110 - starts again
                    await asyncio.sleep(0.05)
            restarts = engine.health().restarts
            notices.last = None
            struck = time.monotonic()
            what = chance.choice(ways)(chance)
            seen = struck if what in ("token server", "server SIGKILL", "vLLM SIGKILL") else None
            while engine.health().restarts == restarts and "server" not in what:
                if seen is None and parts is not None and parts.failure is not None:
                    seen = time.monotonic()
                if all(turn.done() for turn in turns) and engine.health().ready:
                    # The thread slept; it dies when the next turn wakes it.
                    turns.append(asyncio.create_task(follow()))
                    if not what.startswith("vLLM"):
                        # Or the exception was raised where Python ignores it.
                        with contextlib.suppress(KeyError, OrpheusError):
                            what = ways[0](chance)
                await asyncio.sleep(0.005)
            ended = await asyncio.gather(*turns)
            samples = await speak(engine)
    except TimeoutError:
        return f"hung: {what}", HUNG_S
    if samples < 2048:
        return f"the next turn did not speak: {what}", 0.0
    died = [at for how, at in ended if how == "died"]
    if what.startswith("orpheus-"):
        seen = notices.last
    late = max((at - (seen or at) for at in died), default=0.0)
    return f"told, and the next turn spoke: {what.partition(' ')[0]}", late


def memory_mb() -> float:
    gc.collect()  # what is left is held by something
    status = Path("/proc/self/status").read_text("utf-8")
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


async def run(args: argparse.Namespace) -> dict[str, Any]:
    log = logging.getLogger("orpheus_plugin")
    log.addHandler(notices)
    log.propagate = False
    logging.disable(logging.WARNING)
    logging.getLogger("aiohttp.server").disabled = True  # of the token server, which loses clients
    chance = random.Random(args.seed)
    outcomes: Counter[str] = Counter()
    times: list[float] = []
    memory: list[float] = []
    until = time.monotonic() + args.seconds
    async with running(args.engine, args.codec) as (engine, ways):
        for number in range(args.deaths):
            outcome, late = await one(engine, ways, chance)
            outcomes[outcome] += 1
            times.append(late)
            if number % 20 == 19 or not memory:
                memory.append(memory_mb())
                print(number + 1, dict(outcomes), f"{max(times):.2f} s, {memory[-1]:.0f} MB")
            if time.monotonic() > until:
                break
        left = engine.health().active_turns
    times.sort()
    return {
        "engine": args.engine,
        "codec": args.codec,
        "deaths": len(times),
        "outcomes": dict(outcomes),
        "told_after_s": {"p50": times[len(times) // 2], "most": times[-1]},
        "places_left": left,
        "memory_mb": memory,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--engine", choices=ENGINES, default="cpu")
    parser.add_argument("--codec", choices=("cpu", "torch"), default="cpu")
    parser.add_argument("--deaths", type=int, default=250)
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--add-to", type=Path, help="a results' file whose runs are kept")
    add_save_option(parser)
    args = parser.parse_args()
    runs = []
    if args.add_to is not None and args.add_to.exists():
        runs = json.loads(args.add_to.read_text("utf-8"))["runs"]
    runs.append(asyncio.run(run(args)))
    print(runs[-1])
    save("engine_deaths", {"deaths": sum(run["deaths"] for run in runs), "runs": runs})


if __name__ == "__main__":
    main()
