"""The longest single calls on the engine's and the server's event loop while hostile texts are
spoken: ``python benchmarks/loop_calls.py``.

Every callback of both loops is measured, in CPU time of its thread, so that a busy machine does not
count. Each text of benchmarks/text.py is filled up to the 6,144 characters that a turn takes and
given to the server in one message, on a connection of its own; it is left after some seconds, which
is long enough for all of the text to be read, because the engine may be as far ahead as it likes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import sys
import threading
import time
from asyncio import events
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.report import add_save_option, save  # noqa: E402
from benchmarks.text import CHARS, HOSTILE, ORDINARY  # noqa: E402
from orpheus_plugin.engine.config import EngineConfig  # noqa: E402
from orpheus_plugin.engine.local import LocalEngine  # noqa: E402
from orpheus_plugin.models.files import ModelFiles, ModelSpec  # noqa: E402
from orpheus_plugin.remote.engine import RemoteEngine  # noqa: E402
from tests.support.checkpoints import SMALL_TEXT, crafted_checkpoint  # noqa: E402
from tests.support.codecs import random_codec  # noqa: E402
from tests.support.servers import serving  # noqa: E402

SPOKEN_S = 3.0
LOOPS = {"orpheus-engine": "engine", "MainThread": "server"}


class Calls:
    """The longest calls of each loop, and the text that was being spoken."""

    def __init__(self) -> None:
        self.text = ""
        self.longest: dict[str, list[tuple[float, str, str]]] = {n: [] for n in LOOPS.values()}
        self.count = dict.fromkeys(LOOPS.values(), 0)

    def measure(self) -> None:
        run = events.Handle._run

        def measured(handle: Any) -> None:
            loop = LOOPS.get(threading.current_thread().name)
            before = time.thread_time()
            run(handle)
            took = time.thread_time() - before
            if loop is None or not self.text:
                return
            self.count[loop] += 1
            longest = self.longest[loop]
            if len(longest) < 10 or took > longest[-1][0]:
                longest.append((took, self.text, _name(handle)))
                longest.sort(reverse=True)
                del longest[10:]

        setattr(events.Handle, "_run", measured)  # noqa: B010 - mypy allows no other way


def _name(handle: Any) -> str:
    """The coroutine of a task's step; else the callback."""
    task = getattr(handle._callback, "__self__", None)
    if isinstance(task, asyncio.Task):
        return f"{getattr(task.get_coro(), '__qualname__', '?')} of {task.get_name()}"
    return repr(handle)[:160]


async def run(args: argparse.Namespace) -> dict[str, Any]:
    spec = ModelSpec("crafted", voices=("tara",), tags=("laugh",), license="none")
    files = ModelFiles(spec, crafted_checkpoint(text=SMALL_TEXT), random_codec())
    engine = LocalEngine(
        EngineConfig(device="cpu", max_turns=4, ahead_s=None, measure=False), files=files
    )
    calls = Calls()
    calls.measure()
    async with serving(engine) as server:
        gc.collect()
        gc.freeze()  # as `orpheus-tts serve` does; here it is torch's and the tests' objects, too
        texts = ORDINARY | HOSTILE
        for name, sample in [(n, s) for n, s in texts.items() if n in (args.only or texts)]:
            remote = RemoteEngine(server.url)
            await remote.start()
            calls.text = name
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(args.seconds), remote.open_turn(max_wait_s=30) as turn:
                    turn.push_text((sample * (CHARS // len(sample) + 1))[:CHARS])
                    turn.end()
                    async for _ in turn:
                        pass
            calls.text = ""
            await remote.aclose()
    return {
        loop: {
            "calls": calls.count[loop],
            "longest_ms": 1e3 * longest[0][0],
            "longest": [
                {"ms": 1e3 * took, "text": text, "call": call} for took, text, call in longest
            ],
        }
        for loop, longest in calls.longest.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=SPOKEN_S)
    parser.add_argument("--only", nargs="+", help="names of texts (default: all)")
    add_save_option(parser)
    figures = asyncio.run(run(parser.parse_args()))
    for loop, found in figures.items():
        print(f"{loop}: {found['calls']} calls, longest {found['longest_ms']:.2f} ms")
        for call in found["longest"][:4]:
            print(f"  {call['ms']:.2f} ms  {call['text']}: {call['call']}")
    save("loop_calls", figures)


if __name__ == "__main__":
    main()
