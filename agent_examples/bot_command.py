"""`bot.py` as a command: its options, loading before the first caller, and shutdown."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import signal
import socket
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipecat.pipeline.worker import PipelineWorker

_loop: asyncio.AbstractEventLoop | None = None


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="A voice agent that speaks with Orpheus. Without options: http://localhost:7860",
        add_help=False,
    )
    parser.add_argument("--say", metavar="TEXT", help="say this into --out and exit; no page")
    parser.add_argument("--out", metavar="FILE.wav", default="bot.wav", type=Path)
    parser.add_argument("--voice", help="a voice of the model; by default its first")
    parser.add_argument("--model", help="orpheus-3b, mini, a hub repository or a directory")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--url", help="speak through a server started with: orpheus-tts serve")
    parser.add_argument(
        "--in-process", action="store_true", help="the voice in this process, not in one of its own"
    )
    return parser


class Command(argparse.ArgumentParser):
    """Parses this bot's options and those of Pipecat's runner, and loads what every call needs.

    Args:
        warm: loads it.
    """

    def __init__(self, warm: Callable[[argparse.Namespace], Coroutine[Any, Any, None]]) -> None:
        super().__init__(parents=[options()])
        self._warm = warm

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        given = super().parse_args(*args, **kwargs)
        with contextlib.suppress(OSError), socket.create_connection((given.host, given.port), 1):
            self.exit(1, f"error: port {given.port} is taken; choose another with --port\n")
        print("loading the voice ...", file=sys.stderr)
        asyncio.run(self._warm(given))
        # Present objects stay: a garbage collection over them would delay every call by 50 ms and
        # more.
        gc.collect()
        gc.freeze()
        return given


def end_calls_on_ctrl_c(calls: set[PipelineWorker]) -> None:
    """Make ctrl-c and SIGTERM end these calls first: Pipecat's web server does not end before
    them."""
    global _loop
    if _loop is not None:
        return
    loop = _loop = asyncio.get_running_loop()

    def handle(number: int, serve_on: Callable[[int, FrameType | None], None]) -> None:
        def stop(number: int, frame: FrameType | None) -> None:
            for worker in calls:
                asyncio.run_coroutine_threadsafe(worker.cancel(), loop)
            serve_on(number, frame)

        signal.signal(number, stop)

    for number in (signal.SIGINT, signal.SIGTERM):
        servers = signal.getsignal(number)
        if callable(servers) and threading.current_thread() is threading.main_thread():
            handle(number, servers)
