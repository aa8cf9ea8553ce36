"""Two replicas of the bundled voice behind Ray Serve's proxy: all protocols at once, one killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import msgpack
import psutil
import pytest

from orpheus_plugin import protocol
from orpheus_plugin.errors import ConnectionFailed
from orpheus_plugin.events import AudioChunk
from orpheus_plugin.options import SpeechOptions
from orpheus_plugin.remote.engine import RemoteEngine

pytestmark = pytest.mark.deploy

ROOT = Path(__file__).parents[2]
PLACES = 4
CALLERS = 6
"""More than one replica takes, so that each of the two has some, however Ray spreads them."""

TEXT = "This is a long story that somebody reads aloud, and it goes on for quite a while. " * 30
SHORT = "Hello there, how are you?"

PROGRAM = """
import sys
import ray
from ray import serve
ray.init(num_cpus=4, include_dashboard=False)
serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
from deploy.ray.app import app
serve.run(app, blocking=True)
"""
"""What `serve run deploy.ray.app:app` does, on a port of the test's own."""


@dataclass
class Cluster:
    url: str
    driver: psutil.Process

    def replicas(self) -> dict[int, str]:
        """Of each replica that listens: its process, and the socket of its server."""
        found = {}
        for process in self.driver.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                for connection in process.net_connections(kind="unix"):
                    path = str(connection.laddr)
                    if "orpheus-ray-" in path and connection.status == psutil.CONN_NONE:
                        found[process.pid] = path
        return found


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("ray") / "log"
    environment = {
        **os.environ,
        "ORPHEUS_MODEL": "mini",
        "ORPHEUS_DEVICE": "cpu",
        "ORPHEUS_MAX_TURNS": str(PLACES),
        "ORPHEUS_MIN_REPLICAS": "2",
        "ORPHEUS_STATE_DIR": str(log.parent),
        "RAY_USAGE_STATS_ENABLED": "0",
        # A busy machine starts all of it, but later.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120",
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
        "RAY_agent_register_timeout_ms": "200000",
        "PYTHONPATH": str(ROOT),
    }
    began = time.monotonic()
    with (
        log.open("wb") as sink,
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(port)],
            cwd=ROOT,
            env=environment,
            stdout=sink,
            stderr=sink,
        ) as driver,
    ):
        cluster = Cluster(f"http://127.0.0.1:{port}", psutil.Process(driver.pid))
        try:
            while "is ready at" not in log.read_text() or len(cluster.replicas()) < 2:
                assert driver.poll() is None, log.read_text()
                assert time.monotonic() - began < 250, log.read_text()
                time.sleep(0.5)
            print(f"two replicas: ready after {time.monotonic() - began:.0f} s")
            yield cluster
        finally:
            left = cluster.driver.children(recursive=True) if driver.poll() is None else []
            driver.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                driver.wait(30)
            for process in [*left, cluster.driver]:
                with contextlib.suppress(psutil.Error):
                    process.kill()


# ---- callers of three protocols


@dataclass
class Caller:
    """A listener of one turn."""

    name: str
    heard: int = 0
    told: str = ""
    done: bool = False
    task: asyncio.Task[None] | None = field(default=None, repr=False)

    def take(self, data: bytes) -> None:
        self.heard += len(data)

    async def begin(self, url: str, text: str) -> None:
        """Return as soon as something was heard."""
        speak = PROTOCOLS[self.name.split()[0]]
        self.task = task = asyncio.create_task(self._run(speak(url, text, self)))
        await until(lambda: bool(self.heard) or task.done(), 60)
        assert self.heard, self.told or repr(task)

    async def _run(self, speaking: Coroutine[None, None, None]) -> None:
        try:
            await speaking
            self.done = True
        except (ConnectionFailed, aiohttp.ClientError, ConnectionError) as error:
            self.told = f"{type(error).__name__}: {error}"


async def native(url: str, text: str, caller: Caller) -> None:
    engine = RemoteEngine(url, resume_within_s=0)
    try:
        await engine.start()
        async with engine.open_turn(max_wait_s=5) as turn:
            turn.push_text(text)
            turn.end()
            async for event in turn:
                if isinstance(event, AudioChunk):
                    caller.take(event.pcm)
                    await asyncio.sleep(event.samples / 24_000 / 4)
    finally:
        await engine.aclose()


async def openai_speech(url: str, text: str, caller: Caller) -> None:
    body = {"model": "tts-1", "voice": "alloy", "input": text, "response_format": "pcm"}
    async with (
        aiohttp.ClientSession(raise_for_status=True) as session,
        session.post(f"{url}/v1/audio/speech", json=body) as answer,
    ):
        async for data in answer.content.iter_any():
            caller.take(data)
            await asyncio.sleep(len(data) / 48_000 / 4)


async def unmute(url: str, text: str, caller: Caller) -> None:
    address = f"{url}/api/tts_streaming?format=PcmMessagePack"
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(address, headers={"kyutai-api-key": "public_token"}) as ws,
    ):
        for word in text.split():
            await ws.send_bytes(msgpack.packb({"type": "Text", "text": word}))
        await ws.send_bytes(msgpack.packb({"type": "Eos"}))
        async for message in ws:
            said = msgpack.unpackb(message.data)
            if said["type"] == "Audio":
                caller.take(bytes(len(said["pcm"]) * 2))
                await asyncio.sleep(len(said["pcm"]) / 24_000 / 4)
            elif said["type"] == "Error":
                raise ConnectionError(said["message"])
        if ws.close_code != 1000:
            raise ConnectionError(f"closed with {ws.close_code}")


PROTOCOLS = {"native": native, "OpenAI": openai_speech, "unmute": unmute}


async def turns_of(path: str) -> int:
    """How many turns the server at this socket speaks."""
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as session,
        session.get("http://server/metrics") as answer,
    ):
        lines = (await answer.text()).splitlines()
    return next(
        int(float(line.split()[1])) for line in lines if line.startswith("orpheus_engine_turns ")
    )


async def until(condition: Callable[[], bool], seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


async def say_short(url: str, name: str) -> float:
    """Seconds until it was spoken."""
    caller, began = Caller(name), time.monotonic()
    await PROTOCOLS[name](url, SHORT, caller)
    assert caller.heard > 48_000 * 0.5
    return time.monotonic() - began


# ---- tests


async def test_every_protocol_speaks_through_the_proxy(cluster: Cluster) -> None:
    await asyncio.gather(*(say_short(cluster.url, name) for name in PROTOCOLS))
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{cluster.url}/readyz") as answer:
            assert (answer.status, (await answer.json())["model"]) == (200, "mini")
        async with session.post(f"{cluster.url}/v1/audio/speech", json={"input": ""}) as answer:
            assert answer.status == 400
            assert "error" in await answer.json()


async def test_the_latency_of_the_proxy_is_measured(cluster: Cluster) -> None:
    """A turn is opened and cancelled, through the proxy and at a replica's own socket."""
    path = next(iter(cluster.replicas().values()))
    through = await _round_trips(f"{cluster.url}{protocol.PATH}", None)
    direct = await _round_trips(f"http://server{protocol.PATH}", path)
    print(
        f"a message and its answer: through Ray's proxy {through * 1000:.1f} ms,"
        f" at the replica's socket {direct * 1000:.1f} ms"
    )


async def _round_trips(url: str, path: str | None) -> float:
    """Seconds from a message to its answer, the median of 50."""
    taken = []
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(path) if path else None) as session,
        session.ws_connect(url) as ws,
    ):
        await ws.receive_bytes()  # hello

        async def answer(kind: type[protocol.Opened | protocol.Done]) -> None:
            while True:
                data = await ws.receive_bytes()
                if isinstance(protocol.from_server(data, max_bytes=1 << 20), kind):
                    return

        for number in range(50):
            name = f"turn-{number}"
            began = time.perf_counter()
            await ws.send_bytes(protocol.pack(protocol.opening(name, SpeechOptions(), 1.0)))
            await answer(protocol.Opened)
            taken.append(time.perf_counter() - began)
            await ws.send_bytes(protocol.pack(protocol.Cancel(name)))
            await answer(protocol.Done)
    return statistics.median(taken)


@contextlib.asynccontextmanager
async def listening(cluster: Cluster) -> AsyncIterator[list[Caller]]:
    """Callers of every protocol, all of whom hear something.

    They come one after the other: Ray hands a connection to the replica with fewer, which it does
    not know of connections that come at the same moment.
    """
    names = [name for _ in range(CALLERS) for name in PROTOCOLS][:CALLERS]
    callers = [Caller(f"{name} {number}") for number, name in enumerate(names, 1)]
    try:
        for caller in callers:
            await caller.begin(cluster.url, TEXT)
        yield callers
    finally:
        tasks = [caller.task for caller in callers if caller.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_replica_that_is_killed_takes_only_its_own_turns_with_it(cluster: Cluster) -> None:
    async with listening(cluster) as callers:
        shares = {pid: await turns_of(path) for pid, path in cluster.replicas().items()}
        assert sum(shares.values()) == CALLERS
        victim, lost = next(iter(shares.items()))
        assert 0 < lost < CALLERS
        psutil.Process(victim).kill()
        killed_at = time.monotonic()
        await until(lambda: sum(bool(caller.told) for caller in callers) == lost, 30)
        told_s = time.monotonic() - killed_at
        heard = {caller.name: caller.heard for caller in callers}
        others = [caller for caller in callers if not caller.told]
        await until(lambda: all(c.heard > heard[c.name] or c.done for c in others), 30)
        assert len(others) == CALLERS - lost
        for caller in callers:
            print(f"{caller.name}: {caller.told or 'goes on'}")
        print(f"killed: {lost} of {CALLERS} turns, all told after {told_s:.1f} s")
    taken = [await say_short(cluster.url, name) for name in PROTOCOLS]
    print(f"the next ones speak: {', '.join(f'{s:.1f} s' for s in taken)} for a whole sentence")
    await until(lambda: len(cluster.replicas()) == 2, 120)
    print(f"two replicas again after {time.monotonic() - killed_at:.0f} s")
    await asyncio.gather(*(say_short(cluster.url, name) for name in PROTOCOLS))
