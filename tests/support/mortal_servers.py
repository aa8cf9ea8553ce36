"""Servers in processes of their own, to be killed: forked from one that has loaded everything, so
that each is there in a fraction of a second. As a program it is that process: it starts a server
for every line on standard input, and prints its pid and address."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import deque
from pathlib import Path
from typing import Self

from orpheus_plugin.models.files import ModelFiles
from orpheus_plugin.remote.connection import Address

ROOT = Path(__file__).resolve().parents[2]


class MortalServers:
    """One server is in use, the next one is started meanwhile.

    Attributes:
        kills: how many were killed.
    """

    def __init__(self, files: ModelFiles) -> None:
        self._files = files
        self._used: tuple[int, Address] | None = None
        self._started: deque[tuple[int, Address]] = deque()
        self.kills = 0

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", __name__, str(self._files.lm), str(self._files.codec)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
            start_new_session=True,
        )
        self._reading = asyncio.create_task(self._read())
        self._start_one()
        self._start_one()
        # The first start compiles what no test before it needed, a minute on a busy machine.
        while not self._started:
            assert self._process.returncode is None
            await asyncio.sleep(0.01)
        return self

    async def __aexit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)  # all the servers with it
        await self._process.wait()
        self._reading.cancel()

    async def locate(self) -> Address:
        """The address of the server that runs. Called on the client's own loop."""
        while self._used is None:
            if self._started:
                self._used = self._started.popleft()
            else:
                await asyncio.sleep(0.01)
        return self._used[1]

    def kill(self) -> None:
        """The one in use, with SIGKILL."""
        assert self._used is not None
        pid, _ = self._used
        self._used = None
        os.kill(pid, signal.SIGKILL)
        self.kills += 1
        self._start_one()

    def _start_one(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            pid, url = line.decode().split()
            self._started.append((int(pid), Address(url)))


def _main() -> None:
    from orpheus_plugin.engine.config import EngineConfig
    from orpheus_plugin.engine.local import LocalEngine
    from orpheus_plugin.options import MAX_TEXT_CHARS
    from orpheus_plugin.server.app import make_app
    from orpheus_plugin.server.process import Server
    from orpheus_plugin.server.service import SpeechService

    model, codec = sys.argv[1:]
    # It generates as fast as it can: how far it is ahead of a listener must not slow the test.
    config = EngineConfig(
        model=model, codec=Path(codec), device="cpu", max_turns=4, measure=False, ahead_s=None
    )

    async def load() -> None:
        engine = LocalEngine(config)
        await engine.start()
        await engine.aclose()

    async def serve() -> None:
        service = SpeechService(LocalEngine(config), max_text_chars=MAX_TEXT_CHARS)

        def tell() -> None:
            os.write(1, f"{os.getpid()} {server.url}\n".encode())

        server = Server(service, make_app(service), port=0, on_ready=tell)
        await server.run()

    asyncio.run(load())
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    for _ in sys.stdin.buffer:
        if os.fork() == 0:
            asyncio.run(serve())
            os._exit(0)


if __name__ == "__main__":
    _main()
