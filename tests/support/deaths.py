"""Deaths of an engine's parts, and which errors its callers get."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import NoReturn

from orpheus_plugin.engine.local import LocalEngine
from orpheus_plugin.errors import OrpheusError
from orpheus_plugin.events import TurnEnd
from orpheus_plugin.speech_engine import SpeechEngine
from orpheus_plugin.tokens.batched import BatchedGenerator
from orpheus_plugin.worker_thread import WorkerThread
from tests.support.turns import spoken

TEXT = "The quick brown fox jumps over the lazy dog, come rain or shine. " * 80


def worker_threads(engine: LocalEngine) -> dict[str, WorkerThread]:
    """By name. Other engines of this process have threads of the same names."""
    parts = engine._supervisor.parts
    assert parts is not None
    threads = [parts.codec._thread]
    if isinstance(parts.generator, BatchedGenerator) and parts.generator._worker is not None:
        threads.append(parts.generator._worker.thread)
    return {thread._thread.name: thread for thread in threads if thread is not None}


def kill(engine: LocalEngine, name: str, error: type[BaseException]) -> None:
    """Raise an error in one of the engine's threads, wherever it is: at its next bytecode."""
    thread = worker_threads(engine)[name]._thread
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread.ident or 0), ctypes.py_object(error)
    )


def interrupt(engine: LocalEngine, error: type[BaseException]) -> None:
    """Raise an error between two callbacks of the engine's loop."""

    def leave() -> None:
        raise error

    with engine._supervisor.running() as loop:
        loop.call_soon_threadsafe(leave)


def fail_at_next_step(engine: LocalEngine) -> None:
    """Let the token generator die of the next frame of any turn."""
    parts = engine._supervisor.parts
    assert parts is not None
    generator = parts.generator
    assert isinstance(generator, BatchedGenerator)
    assert generator._worker is not None

    def step(*_: object) -> NoReturn:
        raise MemoryError

    generator._worker.stepper.step = step  # type: ignore[assignment, method-assign]


async def listen(engine: SpeechEngine, heard: Callable[[], None] | None = None) -> str:
    """How a turn ended: "done", or "died" with the error it raised. `heard` is called with every
    event."""
    async with engine.open_turn() as turn:
        turn.push_text(TEXT)
        turn.end()
        try:
            async for event in turn:
                if heard is not None:
                    heard()
                if isinstance(event, TurnEnd):
                    return event.reason
        except OrpheusError:
            pass
    return "died"


async def speak(engine: SpeechEngine) -> int:
    """The samples of a short turn."""
    async with engine.open_turn() as turn:
        return await spoken(turn, "Hello again.")
