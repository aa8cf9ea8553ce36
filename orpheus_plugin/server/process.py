"""The server process: listening, loading, serving, and the end after the last turn."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import gc
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from aiohttp import web

from orpheus_plugin.engine.local import LocalEngine
from orpheus_plugin.errors import InvalidOptions, OrpheusError
from orpheus_plugin.models.devices import pick_device
from orpheus_plugin.remote.registry import RunningServer, recorded
from orpheus_plugin.server import logs
from orpheus_plugin.server.app import make_app
from orpheus_plugin.server.config import DEFAULT_PORT, ServerConfig
from orpheus_plugin.server.http import Runner
from orpheus_plugin.server.mps import Mps, mps
from orpheus_plugin.server.replicas import ReplicatedEngine, check_replicas
from orpheus_plugin.server.security import check_bind, is_loopback
from orpheus_plugin.server.service import SpeechService
from orpheus_plugin.server.voice_map import VoiceMap
from orpheus_plugin.speech_engine import SpeechEngine

logger = logging.getLogger(__name__)


class Server:
    """Listens, loads the engine, serves, and ends in order. `run` returns the process' exit code.

    Args:
        idle_exit_s: end when no client has been connected for so long; None is never.
        drain_s: how long running turns may go on when the server is asked to end.
        on_listening: called with the URL when the socket is open, before the model is loaded.
        on_ready: called when the model is loaded, before the first turn.

    Attributes:
        url: where it listens; "" before that.
        ready: set when it takes turns.
    """

    def __init__(
        self,
        service: SpeechService,
        app: web.Application,
        *,
        host: str = "127.0.0.1",
        port: int = DEFAULT_PORT,
        uds: Path | None = None,
        idle_exit_s: float | None = None,
        drain_s: float = 30.0,
        on_listening: Callable[[str], contextlib.AbstractContextManager[None]] | None = None,
        on_ready: Callable[[], None] | None = None,
    ) -> None:
        self.url = ""
        self._service = service
        self._app = app
        self._host, self._port, self._uds = host, port, uds
        self._idle_exit_s = idle_exit_s
        self._drain_s = drain_s
        self._on_listening = on_listening
        self._on_ready = on_ready
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self.ready = asyncio.Event()

    def stop(self) -> None:
        """Ask the server to end: once to let turns finish, twice to end now."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def run(self) -> int:
        # Pages, health checks and connections without a request come in addition to clients.
        runner = Runner(self._app, connections=2 * self._service.limits.connections + 64)
        await runner.setup()
        site = self._site(runner)
        try:
            if self._uds is not None:
                await _free(self._uds)
            with _for_this_user_alone():
                await site.start()
        except OSError as error:
            await runner.cleanup()
            raise InvalidOptions(
                f"cannot listen on {site.name}: {error.strerror or error}"
            ) from error
        self.url = self._url(runner)
        with self._on_listening(self.url) if self._on_listening else contextlib.nullcontext():
            return await self._serve(runner, site)

    async def _serve(self, runner: web.AppRunner, site: web.BaseSite) -> int:
        service = self._service
        loading = asyncio.create_task(service.engine.start())
        stopping = asyncio.create_task(self._stop.wait())
        helpers: list[asyncio.Task[Any]] = [asyncio.create_task(self._end_when_idle()), stopping]
        code = 0
        try:
            await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if loading.done():
                await loading
                if self._on_ready is not None:
                    self._on_ready()
                service.ready = True
                self.ready.set()
                service.last_used = time.monotonic()
                logger.info("ready", extra={"url": self.url})
                await stopping
        except OrpheusError as error:
            logger.error("the model could not be loaded: %s", error)
            code = 1
        finally:
            # A task of its own: cancelling this one shortens the end, but does not skip it.
            ending = asyncio.create_task(self._end(runner, site, [*helpers, loading]))
            while not ending.done():
                try:
                    await asyncio.shield(ending)
                except asyncio.CancelledError:
                    self._hurry.set()
        return code

    async def _end(
        self, runner: web.AppRunner, site: web.BaseSite, helpers: list[asyncio.Task[Any]]
    ) -> None:
        service = self._service
        with contextlib.suppress(Exception):
            await site.stop()
        logger.info("ending", extra={"active_turns": service.active_turns})
        draining = asyncio.create_task(service.drain(self._drain_s))
        hurrying = asyncio.create_task(self._hurry.wait())
        await asyncio.wait({draining, hurrying}, return_when=asyncio.FIRST_COMPLETED)
        if service.active_turns:
            logger.warning("turns cut off", extra={"active_turns": service.active_turns})
            service.cut_off()
        await asyncio.sleep(0.1)  # the last messages leave
        for task in (*helpers, draining, hurrying):
            task.cancel()
        await asyncio.gather(*helpers, draining, hurrying, return_exceptions=True)
        try:
            await runner.cleanup()
        finally:
            await service.engine.aclose()
            if self._uds is not None:
                self._uds.unlink(missing_ok=True)

    def _site(self, runner: web.AppRunner) -> web.BaseSite:
        if self._uds is None:
            return web.TCPSite(runner, self._host, self._port)
        return web.UnixSite(runner, str(self._uds))

    def _url(self, runner: web.AppRunner) -> str:
        if self._uds is not None:
            return f"unix://{self._uds.absolute()}"
        host, port, *_ = runner.addresses[0]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def _end_when_idle(self) -> None:
        while self._idle_exit_s is not None:
            await asyncio.sleep(min(1.0, self._idle_exit_s / 4))
            service = self._service
            idle = time.monotonic() - service.last_used
            if service.ready and not service.connections and idle > self._idle_exit_s:
                logger.info("no client was connected for %.0f s", idle)
                self.stop()
                return


async def _free(path: Path) -> None:
    """Raises OSError if a server listens at this path already; asyncio would take the path from
    it."""
    try:
        _, writer = await asyncio.open_unix_connection(str(path))
    except OSError:
        return
    writer.close()
    raise OSError(errno.EADDRINUSE, "another server listens there")


@contextlib.contextmanager
def _for_this_user_alone() -> Iterator[None]:
    """Files made in the block, here a Unix socket, can be opened by this user only, from the first
    moment on."""
    before = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(before)


def let_others_first(nice: int) -> None:
    """Lower the priority of this process, and of its session if it leads one (Linux): between
    sessions the kernel compares sessions, not processes (`man 7 sched`, autogroup)."""
    os.nice(nice)
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):  # a kernel without it
            Path("/proc/self/autogroup").write_text(str(nice))


def serve(config: ServerConfig) -> int:
    """Run the server until it is asked to end; the exit code. Raises OrpheusError if it cannot
    serve."""
    if config.uds is None:
        check_bind(config.host, api_key=config.api_key, insecure=config.insecure)
    logs.set_up(level=config.log_level, file=config.log_file)
    if config.nice and hasattr(os, "nice") and pick_device(config.engine.device) == "cpu":
        let_others_first(config.nice)
    voices = VoiceMap.load(config.voice_map)
    check_replicas(config)
    with mps() if config.mps else contextlib.nullcontext() as daemon:
        engine = LocalEngine(config.engine) if config.replicas == 1 else ReplicatedEngine(config)
        return asyncio.run(_run(make_server(config, engine, voices, daemon)))


async def _run(server: Server) -> int:
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):  # Windows
            loop.add_signal_handler(name, server.stop)
    return await server.run()


def make_server(
    config: ServerConfig, engine: SpeechEngine, voices: VoiceMap, daemon: Mps | None = None
) -> Server:
    """The server of `config` with `engine`, which it starts and ends. Not yet listening."""
    service = SpeechService(
        engine,
        limits=config.limits,
        max_text_chars=config.engine.max_text_chars,
        voices=voices,
        strict_voices=config.engine.strict_voices,
        log_text=config.log_text,
    )
    app = make_app(
        service,
        api_key=config.api_key,
        loopback_only=config.uds is not None or is_loopback(config.host),
        origins=config.origins,
    )

    def record(url: str) -> contextlib.AbstractContextManager[None]:
        print(f"orpheus-tts: listening on {url}", flush=True)
        key = config.api_key if os.environ.get("ORPHEUS_AUTOSTARTED") else None
        return recorded(
            RunningServer(url, config.engine.model, config.engine.device, os.getpid(), key)
        )

    return Server(
        service,
        app,
        host=config.host,
        port=config.port,
        uds=config.uds,
        idle_exit_s=config.idle_exit_s,
        drain_s=config.drain_s,
        on_listening=record,
        on_ready=functools.partial(_ready, config, daemon),
    )


def _ready(config: ServerConfig, daemon: Mps | None) -> None:
    _keep_what_is_loaded()
    if daemon is not None:
        # An engine is two processes on the GPU: the codec's, and vLLM's if it has one.
        said = asyncio.get_running_loop().run_in_executor(None, daemon.check, config.replicas)
        said.add_done_callback(lambda done: logger.info("%s", done.result()))


def _keep_what_is_loaded() -> None:
    """Exclude all present objects from garbage collection. With torch loaded a full collection
    stops every thread, and so all audio, for a tenth of a second."""
    gc.collect()
    gc.freeze()
