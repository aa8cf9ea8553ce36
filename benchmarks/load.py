"""How many callers one server carries: ``python benchmarks/load.py``.

Starts `orpheus-tts serve` and, at every level, so many client processes, each its own agent: it speaks turns one after the
other, text coming as from a language model, and listens as a player would that starts with the first sample. Per level:

* admitted and refused turns (a refused one waits half a second and asks again, as a router would elsewhere);
* time from the first text to the first audio, as the client sees it: median and 99th percentile; and the median from the
  moment when the words that are spoken first were all there, before which nobody could have spoken;
* underruns: times a player ran dry and audio still came later, and their length together; for one that plays from the first
  sample on, and for one that starts 100 ms later, as calls do, with their jitter buffers;
* the server's own view: capacity, memory;
* processor cores in use: by the server, by all clients together, and by whatever else runs on the machine.

Levels go up until turns are refused, and then to twice the capacity: those that are admitted must stay free of underruns.
`--busy N` has N processes spin beside, as other programs of the machine might: a server then admits fewer.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.report import save  # noqa: E402
from benchmarks.server_process import (  # noqa: E402
    ServerProcess,
    cpu_s,
    machine_cpu_s,
    server_process,
)
from orpheus_plugin.errors import AtCapacity  # noqa: E402
from orpheus_plugin.remote.engine import RemoteEngine  # noqa: E402
from orpheus_plugin.text.cutter import UtteranceCutter  # noqa: E402
from orpheus_plugin.turn import AudioChunk  # noqa: E402

TEXT = (
    "Thank you for calling, how can I help you today? I have found two flights that may suit you."
    " The first one leaves in the morning, and the second one in the late afternoon."
    " Could you please tell me which of them you would like to take?"
)
WORD_S = 0.02
"""Between two words of the text: a language model of fifty words a second."""

BUFFER_S = 0.1


@dataclass
class Heard:
    """One turn, as its listener heard it."""

    ttfa_s: float = 0.0
    after_text_s: float = 0.0
    audio_s: float = 0.0
    underruns: int = 0
    dry_s: float = 0.0
    underruns_buffered: int = 0
    refused: bool = False


# ---- a client process


async def listen(engine: RemoteEngine) -> Heard:
    heard, dry_at, buffered_dry_at = Heard(), 0.0, 0.0
    cutter, text_at = UtteranceCutter(), 0.0
    async with engine.open_turn() as turn:
        began = time.monotonic()

        async def feed() -> None:
            nonlocal text_at
            for word in TEXT.split(" "):
                turn.push_text(word + " ")
                if not text_at and cutter.push(word + " "):
                    text_at = time.monotonic()
                await asyncio.sleep(WORD_S)
            turn.end()

        feeding = asyncio.create_task(feed())
        try:
            async for event in turn:
                if isinstance(event, AudioChunk):
                    now = time.monotonic()
                    if not heard.audio_s:
                        heard.ttfa_s, heard.after_text_s = now - began, now - text_at
                        dry_at, buffered_dry_at = now, now + BUFFER_S
                    elif now > dry_at + 0.001:
                        heard.underruns += 1
                        heard.dry_s += now - dry_at
                        dry_at = now
                    if now > buffered_dry_at:
                        heard.underruns_buffered += 1
                        buffered_dry_at = now + BUFFER_S
                    dry_at += event.duration_s
                    buffered_dry_at += event.duration_s
                    heard.audio_s += event.duration_s
            await feeding
        except AtCapacity:
            heard.refused = True
            return heard
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
    await asyncio.sleep(max(0.0, dry_at - time.monotonic()))  # what was said is heard out
    return heard


async def client(url: str, seconds: float) -> None:
    engine = RemoteEngine(url)
    await engine.start()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    turns: list[Heard] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        turns.append(await listen(engine))
        if turns[-1].refused:
            await asyncio.sleep(0.5)
    await engine.aclose()
    print(json.dumps([asdict(turn) for turn in turns]), flush=True)


# ---- the levels


def level(server: ServerProcess, clients: int, seconds: float) -> dict[str, Any]:
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "--client", server.url, "--seconds", str(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(clients)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    before = _used(server, processes)
    settling, watched = min(3.0, seconds / 2), seconds - 0.5
    time.sleep(settling)
    capacity = health(server)["max_turns"]
    time.sleep(watched - settling)
    cores = [
        (now - then) / watched for now, then in zip(_used(server, processes), before, strict=True)
    ]
    turns: list[Heard] = []
    for process in processes:
        answer = process.communicate(timeout=seconds + 120)[0]
        turns += [Heard(**turn) for turn in json.loads(answer)]
    spoken = [turn for turn in turns if not turn.refused]
    waits = sorted(turn.ttfa_s for turn in spoken)
    return {
        "clients": clients,
        "capacity": [capacity, health(server)["max_turns"]],
        "admitted": len(spoken),
        "refused": len(turns) - len(spoken),
        "ttfa_p50_ms": 1000 * statistics.median(waits),
        "ttfa_p99_ms": 1000 * waits[min(len(waits) - 1, int(0.99 * len(waits)))],
        "after_text_p50_ms": 1000 * statistics.median(turn.after_text_s for turn in spoken),
        "underruns": sum(turn.underruns for turn in spoken),
        "turns_with_underruns": sum(turn.underruns > 0 for turn in spoken),
        "underruns_with_100_ms": sum(turn.underruns_buffered for turn in spoken),
        "dry_ms": 1000 * sum(turn.dry_s for turn in spoken),
        "audio_s": sum(turn.audio_s for turn in spoken),
        "server_mb": server.rss_mb,
        "cores": dict(zip(("server", "clients", "others"), cores, strict=True)),
    }


def _used(server: ServerProcess, clients: list[subprocess.Popen[str]]) -> list[float]:
    """Processor seconds so far: of the server, the clients, everything else."""
    ours = [cpu_s(server.process.pid), sum(cpu_s(client.pid) for client in clients)]
    return [*ours, machine_cpu_s() - sum(ours)]


def health(server: ServerProcess) -> dict[str, Any]:
    with urllib.request.urlopen(f"{server.url}/healthz") as response:
        state: dict[str, Any] = json.load(response)
        return state


@contextlib.contextmanager
def spinning(count: int) -> Iterator[None]:
    """So many processes that use a core each."""
    spinners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--max-turns", help="a fixed limit, in place of the measured one")
    parser.add_argument("--seconds", type=float, default=20.0, help="per level (default: 20)")
    parser.add_argument("--levels", type=int, nargs="*", help="default: 1, 2, 4 ... up to refusal")
    parser.add_argument("--busy", type=int, default=0, metavar="N", help="spin beside")
    parser.add_argument("--out", help="name of the file of results")
    parser.add_argument("--client", help=argparse.SUPPRESS)
    parser.add_argument("server", nargs="*", help="options of `orpheus-tts serve`, after --")
    args = parser.parse_args()
    if args.client:
        asyncio.run(client(args.client, args.seconds))
        return
    options = ["--model", args.model, "--device", args.device]
    if args.max_turns:
        options += ["--max-turns", args.max_turns]
    options += args.server
    rows: list[dict[str, Any]] = []
    with spinning(args.busy), server_process(*options) as server:
        print(f"capacity measured at warm-up: {health(server)['max_turns']}")
        print(
            "clients  capacity  admitted  refused  TTFA p50  p99 ms  after text  underruns  dry ms  with 100 ms  server MB"
            "  cores: server  clients  others"
        )
        clients = 1
        for clients in args.levels or (2**n for n in range(8)):
            rows.append(level(server, clients, args.seconds))
            show(rows[-1])
            if not args.levels and rows[-1]["refused"]:
                break
        if not args.levels:
            rows.append(level(server, 2 * clients, args.seconds))
            show(rows[-1])
    figures = {"model": args.model, "seconds_per_level": args.seconds, "levels": rows}
    save(args.out or ("load" if not args.busy else f"load_busy_{args.busy}"), figures)


def show(row: dict[str, Any]) -> None:
    print(
        f"{row['clients']:7}  {row['capacity'][0]:8}  {row['admitted']:8}  {row['refused']:7}"
        f"  {row['ttfa_p50_ms']:8.0f}  {row['ttfa_p99_ms']:6.0f}  {row['after_text_p50_ms']:10.0f}  {row['underruns']:9}"
        f"  {row['dry_ms']:6.0f}  {row['underruns_with_100_ms']:11}  {row['server_mb']:9.0f}"
        f"  {row['cores']['server']:13.2f}  {row['cores']['clients']:7.2f}  {row['cores']['others']:6.2f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
