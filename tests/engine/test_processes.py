"""Processes with an engine: they end during a turn with their own exit status, and fork."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.checkpoints import SMALL_TEXT, crafted_checkpoint
from tests.support.codecs import random_codec

BEGIN = """
import asyncio, os, sys
from orpheus_plugin.engine.config import EngineConfig
from orpheus_plugin.engine.local import LocalEngine
from orpheus_plugin.errors import EngineDied
from orpheus_plugin.remote.engine import RemoteEngine

async def begin():
    model, codec, generator = sys.argv[1:]
    engine = LocalEngine(
        EngineConfig(model=model, codec=codec, device="cpu", generator=generator, max_turns=2,
                     measure=False, ahead_s=None)
    )
    await engine.start()
    turn = engine.open_turn()
    turn.push_text("The quick brown fox jumps over the lazy dog. " * 80)
    async for _ in turn:
        return engine, turn
"""

LEAVE = """
kept = asyncio.run(begin())
sys.exit(7)
"""

FORK = """
engine, turn = asyncio.run(begin())
remote = RemoteEngine("127.0.0.1:9")
remote.prewarm()
child = os.fork()
if child == 0:
    async def use(opened):
        try:
            opened.open_turn()
        except EngineDied as error:
            assert str(os.getppid()) in str(error), error
            assert opened.closed
            await opened.aclose()
            return
        os._exit(3)

    async def refused():
        await use(engine)
        await use(remote)
        assert not engine.health().ready

    asyncio.run(asyncio.wait_for(refused(), 5))
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert engine.health().ready
asyncio.run(engine.aclose())
"""


def run(code: str, generator: str) -> subprocess.CompletedProcess[str]:
    model, codec = crafted_checkpoint(text=SMALL_TEXT), random_codec()
    return subprocess.run(
        [sys.executable, "-c", BEGIN + code, str(model), str(codec), generator],
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("generator", ["cpu", "torch"])
def test_a_process_that_ends_in_mid_turn_keeps_its_exit_status(generator: str) -> None:
    done = run(LEAVE, generator)
    assert done.returncode == 7, done.stderr
    # Not the warnings: the random model may have spoken for too long when it was warmed up.
    assert not any(word in done.stderr for word in ("terminate", "died", "Traceback", "pending"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_an_engine_in_a_forked_child_raises_a_clear_error() -> None:
    done = run(FORK, "cpu")
    assert done.returncode == 0, done.stderr
