"""Several engines on one GPU behind one listener: `orpheus-tts serve --replicas N`.

One vLLM leaves a large GPU idle most of the time, because each step waits for the host. Replicas
are servers in processes of their own, each with its engine and its cores, on Unix sockets that only
this user can open. The listener's server gives each turn to the replica with the most free places.
They share the GPU well only with MPS (see `mps`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import shutil
import signal
import sys
import tempfile
import threading
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from orpheus_plugin.errors import ConnectionFailed, EngineDied, InvalidOptions
from orpheus_plugin.options import SpeechOptions
from orpheus_plugin.remote.engine import RemoteEngine
from orpheus_plugin.server.config import ServerConfig
from orpheus_plugin.speech_engine import EngineHealth, EngineLoad
from orpheus_plugin.turn import Turn

logger = logging.getLogger(__name__)

_START_S = 900.0
_END_S = 20.0
_AGAIN_S = 5.0
"""Seconds after which a replica that ended is started again."""


class ReplicatedEngine:
    """A SpeechEngine of `config.replicas` servers, started here and ended with `aclose`.

    A turn costs one hop over a Unix socket more than with an engine in this process. When a replica
    ends, its turns fail with ConnectionFailed or go on at the next one; it is started again, and
    new turns go to the others meanwhile.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._folder: Path | None = None
        self._replicas: list[_Replica] = []
        self._lock = threading.Lock()
        self._starting = asyncio.Lock()

    async def start(self) -> None:
        """Start all replicas, one after the other, so that each measures its number of turns while
        the others are idle."""
        async with self._starting:
            if self._replicas:
                return
            folder = self._folder = Path(tempfile.mkdtemp(prefix="orpheus-"))
            cores = _shares(self._config.replicas)
            replicas = [
                _Replica(replica_config(self._config, folder / f"{number}.sock"), cores[number])
                for number in range(self._config.replicas)
            ]
            try:
                for one in replicas:
                    await one.start()
            except BaseException:
                await asyncio.gather(*(one.aclose() for one in replicas))
                shutil.rmtree(folder, ignore_errors=True)
                raise
            self._replicas = replicas

    async def aclose(self) -> None:
        """End all turns and all replicas. Idempotent."""
        replicas, self._replicas = self._replicas, []
        await asyncio.gather(*(one.aclose() for one in replicas))
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def open_turn(self, options: SpeechOptions | None = None, *, max_wait_s: float = 0.0) -> Turn:
        """See SpeechEngine."""
        with self._lock:
            one = max(self._running(), key=lambda one: one.room)
            turn = one.engine.open_turn(options, max_wait_s=max_wait_s)
            one.turns.add(turn)
        return turn

    def check_voice(self, voice: str | None) -> str | None:
        return self._running()[0].engine.check_voice(voice)

    @property
    def voices(self) -> tuple[str, ...]:
        return self._replicas[0].engine.voices if self._replicas else ()

    @property
    def adapters(self) -> tuple[str, ...]:
        return self._replicas[0].engine.adapters if self._replicas else ()

    @property
    def languages(self) -> tuple[str, ...]:
        return self._replicas[0].engine.languages if self._replicas else ()

    @property
    def tags(self) -> tuple[str, ...]:
        return self._replicas[0].engine.tags if self._replicas else ()

    def health(self) -> EngineHealth:
        """All replicas together. Ready while one is."""
        parts = [one.engine.health() for one in self._replicas]
        if not parts:
            return EngineHealth(False, self._config.engine.model, "none", 0, 0, 0)
        ready = [part for part in parts if part.ready]
        first = (ready or parts)[0]
        return replace(
            first,
            active_turns=sum(part.active_turns for part in ready),
            max_turns=sum(part.max_turns for part in ready),
            waiting=sum(part.waiting for part in ready),
            restarts=sum(part.restarts for part in parts)
            + sum(one.restarts for one in self._replicas),
            error=next((part.error for part in parts if part.error), None),
        )

    def load(self) -> EngineLoad:
        return EngineLoad.of_all([one.engine.load() for one in self._replicas])

    def _running(self) -> list[_Replica]:
        if not self._replicas:
            raise EngineDied("the engine is not running; await engine.start() first")
        return [one for one in self._replicas if one.engine.health().ready] or self._replicas


class _Replica:
    """One server process and the connection to it."""

    def __init__(self, config: ServerConfig, cores: Sequence[int]) -> None:
        assert config.uds is not None
        self.engine = RemoteEngine(f"unix://{config.uds}")
        self.turns: weakref.WeakSet[Turn] = weakref.WeakSet()
        self.restarts = 0
        self._config = config
        self._cores = list(cores)
        self._process: asyncio.subprocess.Process | None = None
        self._keeping: asyncio.Task[None] | None = None

    @property
    def room(self) -> int:
        """Free places by our own count: the server's report is up to a second old."""
        return self.engine.health().max_turns - sum(not turn.ended for turn in self.turns)

    async def start(self) -> None:
        """Returns when it takes turns. Raises EngineDied with its exit status if it ends
        instead."""
        await self._spawn()
        process = self._process
        assert process is not None
        connecting = asyncio.create_task(self._connected())
        ending = asyncio.create_task(process.wait())
        try:
            await asyncio.wait({connecting, ending}, return_when=asyncio.FIRST_COMPLETED)
            if not connecting.done():
                raise EngineDied(
                    f"a replica ended while it started (exit status {process.returncode}); its"
                    " message is above"
                )
            await connecting
        finally:
            connecting.cancel()
            ending.cancel()
        self._keeping = asyncio.create_task(self._keep(), name="orpheus-replica")

    async def _connected(self) -> None:
        """Returns when it takes turns. While it loads its model it answers so; before that it does
        not answer."""
        async with asyncio.timeout(_START_S):
            while not self.engine.health().ready:
                with contextlib.suppress(ConnectionFailed):
                    await self.engine.start()
                await asyncio.sleep(0.1)

    async def aclose(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        await self.engine.aclose()
        process = self._process
        if process is None or process.returncode is not None:
            return
        for wish in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(wish)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), _END_S)
                return

    async def _keep(self) -> None:
        while True:
            assert self._process is not None
            status = await self._process.wait()
            logger.error("a replica ended with exit status %s; it is started again", status)
            await asyncio.sleep(_AGAIN_S)
            await self._spawn()
            self.restarts += 1

    async def _spawn(self) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "orpheus_plugin.server.replica",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,  # it would print its address
        )
        self._process = process
        assert process.stdin is not None
        # Its standard input stays open: a replica ends when it closes, so also when this process is
        # killed.
        process.stdin.write(pickle.dumps((self._config, self._cores)))
        with contextlib.suppress(ConnectionError):
            await process.stdin.drain()


def replica_config(config: ServerConfig, uds: Path) -> ServerConfig:
    """The configuration of one of `config.replicas` servers."""
    engine = config.engine
    if engine.max_turns is not None:
        engine = replace(engine, max_turns=-(-engine.max_turns // config.replicas))
    return replace(
        config, engine=engine, uds=uds, replicas=1, mps=False, api_key=None, idle_exit_s=None
    )


def _shares(count: int) -> list[list[int]]:
    """This process' cores, split into groups of neighbours; all cores for each if there are too
    few."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    size = len(cores) // count
    if not size:
        return [cores] * count
    return [cores[number * size : (number + 1) * size] for number in range(count)]


def check_replicas(config: ServerConfig) -> None:
    """Raises InvalidOptions for an impossible number."""
    if config.replicas < 1:
        raise InvalidOptions(f"--replicas must be at least 1, not {config.replicas}")
    if config.replicas > 1 and not hasattr(os, "sched_setaffinity"):
        raise InvalidOptions("--replicas needs Linux")
