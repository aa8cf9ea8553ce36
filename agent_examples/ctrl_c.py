"""Ctrl-c in the examples: they end at once, and print no traceback."""

from __future__ import annotations

import asyncio
import sys
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipecat.pipeline.worker import PipelineWorker
    from pipecat.transports.base_transport import BaseTransport
    from pipecat.workers.runner import WorkerRunner


def _quiet_at_ctrl_c(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)


# Importing Pipecat takes seconds, so this module is imported before it.
sys.excepthook = _quiet_at_ctrl_c


async def run_to_end(
    runner: WorkerRunner, worker: PipelineWorker, transport: BaseTransport
) -> None:
    """`runner.run()` for a pipeline that ends with an EndFrame.

    Pipecat plays what was queued before an EndFrame to its end, and ignores `worker.cancel()`
    meanwhile. This ends when its task is cancelled, as ctrl-c does with the task of `asyncio.run`
    unless the runner takes the signal (`handle_sigint`).
    """
    from pipecat.frames.frames import CancelFrame

    running = asyncio.create_task(runner.run())
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await worker.cancel()
        await transport.input().queue_frame(CancelFrame())
        await running
        raise
