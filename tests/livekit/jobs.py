"""Run as a program: a LiveKit worker without a LiveKit server that takes two jobs at once; each
says a sentence.

    python -m tests.livekit.jobs process|thread FOLDER

Every job leaves FOLDER/job-*.json about itself and FOLDER/job-*.pcm, what it heard itself say. With
`thread` the jobs share one engine in this process; with `process` they speak through ORPHEUS_URL.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import threading
import time
from pathlib import Path

from livekit.agents import AgentServer, JobContext, JobExecutorType
from livekit.agents.job import JobProcess

from orpheus_plugin.livekit import OrpheusTTS
from tests.livekit import shared
from tests.livekit.fakes import on_stage

SENTENCES = (
    "Your order is ready, and you can take it home today.",
    "The children are playing in the garden behind the house.",
)
JOBS = 2


def set_up(process: JobProcess) -> None:
    process.userdata["began"] = time.perf_counter()


async def entry(ctx: JobContext) -> None:
    folder = Path(os.environ["JOBS_FOLDER"])
    index = int(ctx.job.room.name.removeprefix("room"))
    speech = OrpheusTTS(
        engine=shared.engine() if os.environ["JOBS_KIND"] == "thread" else None, seed=1
    )
    async with on_stage(speech) as stage:
        began = time.perf_counter()
        await stage.session.say(SENTENCES[index % len(SENTENCES)])
        assert stage.audio.first_at is not None, "nothing was heard"
        first_s = stage.audio.first_at - began
        (folder / f"job-{index}.pcm").write_bytes(stage.audio.pcm)
        report = {
            "pid": os.getpid(),
            "thread": threading.get_ident(),
            "audio_s": len(stage.audio.pcm) / 48_000,
            "first_s": first_s,
            "rss_mb": resident_mb(os.getpid()),
            "private_mb": private_mb(os.getpid()),
            "torch": "torch" in sys.modules,
            "model": speech.model,
        }
    (folder / f"job-{index}.json").write_text(json.dumps(report), "utf-8")
    ctx.shutdown("done")


def resident_mb(pid: int) -> float:
    return _status_kb(pid, "VmRSS") / 1024


def private_mb(pid: int) -> float:
    """Memory that is this process' own: what one more of it costs."""
    total = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text("utf-8").splitlines():
        if line.startswith(("Private_Clean", "Private_Dirty")):
            total += int(line.split()[1])
    return total / 1024


def _status_kb(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text("utf-8").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    return 0


def _all_reported(folder: Path, count: int) -> bool:
    return all((folder / f"job-{n}.json").exists() for n in range(count))


async def main(kind: str, folder: str, jobs: int = JOBS) -> None:
    if kind == "thread":
        shared.engine()  # before any job's loop runs: it loads torch
    os.environ["JOBS_FOLDER"], os.environ["JOBS_KIND"] = folder, kind
    server = AgentServer(
        job_executor_type=JobExecutorType[kind.upper()],
        setup_fnc=set_up,
        num_idle_processes=1,
        host="127.0.0.1",
        port=0,
        ws_url="ws://127.0.0.1:1",
        api_key="key",
        api_secret="s" * 32,
    )
    server.rtc_session(entry)
    started = asyncio.Event()
    server.once("worker_started", lambda *_: started.set())
    running = asyncio.create_task(server.run(devmode=True, unregistered=True))
    waiting = asyncio.create_task(started.wait())
    await asyncio.wait([waiting, running], return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        await running
    await asyncio.gather(*(server.simulate_job(f"room{n}", fake_job=True) for n in range(jobs)))
    async with asyncio.timeout(90):
        while not _all_reported(Path(folder), jobs):
            await asyncio.sleep(0.1)
    await server.aclose()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else JOBS))
