"""Requests to vLLM alone, and the comparison of alternating runs: shared by the benchmarks of our
vLLM code."""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from orpheus_plugin.tokens.base import SamplingParams

Runs = list[tuple[float, float]]
"""The results of one way, a pair for each round: see `speed`."""


async def raw_ids(
    engine: Any,
    prompt: Sequence[int],
    sampling: SamplingParams,
    *,
    stop: int,
    request_id: str,
    interval: int,
) -> AsyncIterator[Sequence[int]]:
    """New ids of one request to AsyncLLM, used as its documentation shows; it reports every
    `interval` ids."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    params = SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        repetition_penalty=sampling.repetition_penalty,
        max_tokens=sampling.max_tokens,
        stop_token_ids=[stop],
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        stream_interval=interval,
    )
    async for output in engine.generate(
        {"type": "token", "prompt_token_ids": prompt}, params, request_id
    ):
        yield output.outputs[0].token_ids


async def speed(run: Callable[[], Awaitable[int]], streams: int) -> tuple[float, float]:
    """(ids/s of all streams, microseconds of this process's processor time an id)."""
    began, spent = time.perf_counter(), time.process_time()
    ids = sum(await asyncio.gather(*(run() for _ in range(streams))))
    return ids / (time.perf_counter() - began), 1e6 * (time.process_time() - spent) / ids


def children() -> dict[int, float]:
    """Processor seconds so far of all processes below this one (Linux)."""
    ticks = os.sysconf("SC_CLK_TCK")
    rows = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text("utf-8").rsplit(")", 1)[1].split()
        except OSError:
            continue  # it ended just now
        rows.append((int(stat.parent.name), int(fields[1]), int(fields[11]) + int(fields[12])))
    below = {os.getpid()}
    for _ in range(4):  # children, grandchildren, ...
        below |= {pid for pid, parent, _ in rows if parent in below}
    return {pid: spent / ticks for pid, _, spent in rows if pid in below and pid != os.getpid()}


def pin(process: int, core: int) -> None:
    """Keep all threads of a process, and those that they start, on one core (Linux)."""
    for task in Path(f"/proc/{process}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # it ended just now
            os.sched_setaffinity(int(task.name), {core})


def medians(found: Mapping[str, Runs]) -> dict[str, Any]:
    """Each way's median speed and cost."""
    return {
        name: {
            "ids_per_s": statistics.median(ids for ids, _ in runs),
            "cpu_us_per_id": statistics.median(cost for _, cost in runs),
        }
        for name, runs in found.items()
    }


def ratio(ours: Runs, theirs: Runs) -> float:
    """Median of the rounds' ratios of speed: runs of a round are neighbours in time and see the
    same machine."""
    return statistics.median(a / b for (a, _), (b, _) in zip(ours, theirs, strict=True))
