"""The server process: its options, its routes, and its life from loading to the last turn."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import gc
import logging
import os
import signal
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from orpheus_plugin.engine.config import EngineConfig
from orpheus_plugin.engine.local import LocalEngine
from orpheus_plugin.errors import InvalidOptions, OrpheusError
from orpheus_plugin.models.devices import pick_device
from orpheus_plugin.remote.registry import RunningServer, recorded
from orpheus_plugin.server import health, logs, status
from orpheus_plugin.server.protocols import baseten, native, openai, unmute
from orpheus_plugin.server.replies import errors_as_responses
from orpheus_plugin.server.security import check_bind, guard, is_loopback
from orpheus_plugin.server.service import Limits, SpeechService
from orpheus_plugin.server.voicemap import VoiceMap
from orpheus_plugin.turn import MAX_TEXT_CHARS, SpeechEngine

logger = logging.getLogger(__name__)

DEFAULT_PORT = 8089

HEADERS_S = 20.0
"""A connection must have come to a request by then, or to its next one."""


# ---- the application


def make_app(
    service: SpeechService,
    *,
    api_key: str | None = None,
    loopback_only: bool = True,
    origins: Collection[str] = (),
    voices: VoiceMap | None = None,
) -> web.Application:
    """All doors over one service."""
    voices = voices or VoiceMap.load()
    app = web.Application(
        middlewares=[
            guard(api_key=api_key, loopback_only=loopback_only, origins=origins),
            errors_as_responses,
        ],
        client_max_size=service.limits.message_bytes,
    )
    status.add_routes(app)
    health.add_routes(app, service, key_needed=api_key is not None)
    native.add_routes(app, service)
    for protocol in (unmute, openai, baseten):
        protocol.add_routes(app, service, voices)
    return app


class Server:
    """Listens, loads the engine, serves, and ends in order. `run` returns the process' exit code.

    Args:
        idle_exit_s: end when nobody has been connected for so long; None is never.
        drain_s: how long running turns may go on after the wish to end.
        on_listening: told the URL as soon as the socket is open, before the model is loaded.
        on_ready: called when the model is loaded, before the first turn.
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
        self.listening = asyncio.Event()

    def stop(self) -> None:
        """Ask the server to end: once to let turns finish, twice to end now."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def run(self) -> int:
        runner = web.AppRunner(
            self._app,
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=2.0,
            keepalive_timeout=HEADERS_S,
        )
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
        self.listening.set()
        with self._on_listening(self.url) if self._on_listening else contextlib.nullcontext():
            return await self._serve(runner, site)

    async def _serve(self, runner: web.AppRunner, site: web.BaseSite) -> int:
        service = self._service
        loading = asyncio.create_task(service.engine.start())
        stopping = asyncio.create_task(self._stop.wait())
        helpers: list[asyncio.Task[Any]] = [
            asyncio.create_task(self._end_when_idle()),
            asyncio.create_task(_drop_the_silent(runner)),
            stopping,
        ]
        code = 0
        try:
            await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if loading.done():
                await loading
                if self._on_ready is not None:
                    self._on_ready()
                service.ready = True
                service.last_used = time.monotonic()
                logger.info("ready", extra={"url": self.url})
                await stopping
        except OrpheusError as error:
            logger.error("the model could not be loaded: %s", error)
            code = 1
        finally:
            with contextlib.suppress(Exception):
                await site.stop()
            logger.info("ending", extra={"active_turns": service.active_turns})
            draining = asyncio.create_task(service.drain(self._drain_s))
            hurrying = asyncio.create_task(self._hurry.wait())
            helpers += [draining, hurrying]
            await asyncio.wait({draining, hurrying}, return_when=asyncio.FIRST_COMPLETED)
            if service.active_turns:
                logger.warning("turns cut off", extra={"active_turns": service.active_turns})
            await asyncio.sleep(0.1)  # the last messages leave
            for task in (*helpers, loading):
                task.cancel()
            await asyncio.gather(*helpers, loading, return_exceptions=True)
            await runner.cleanup()
            await service.engine.aclose()
            if self._uds is not None:
                self._uds.unlink(missing_ok=True)
        return code

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
                logger.info("nobody was connected for %.0f s", idle)
                self.stop()
                return


async def _free(path: Path) -> None:
    """Raises OSError where a server listens at this path already; asyncio would take it from that server."""
    try:
        _, writer = await asyncio.open_unix_connection(str(path))
    except OSError:
        return
    writer.close()
    raise OSError(errno.EADDRINUSE, "another server listens there")


@contextlib.contextmanager
def _for_this_user_alone() -> Iterator[None]:
    """What is made here, a Unix socket, nobody else may open; not even for the moment a chmod would come later."""
    before = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(before)


async def _drop_the_silent(runner: web.AppRunner) -> None:
    """Close connections that have not come to a request: aiohttp waits for its head forever."""
    assert runner.server is not None
    since: dict[RequestHandler, float] = {}
    while True:
        await asyncio.sleep(HEADERS_S / 4)
        now = time.monotonic()
        silent = [
            handler for handler in runner.server.connections if handler._current_request is None
        ]
        since = {handler: since.get(handler, now) for handler in silent}
        for handler, seen in since.items():
            if now - seen >= HEADERS_S and handler.transport is not None:
                handler.transport.abort()


# ---- the command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `orpheus-tts serve`, those of the model excepted."""
    limits = Limits()
    place = parser.add_argument_group("where to listen")
    place.add_argument("--host", default="127.0.0.1", help="address (default: %(default)s)")
    place.add_argument(
        "--port",
        type=int,
        default=DEFAULT_PORT,
        help="port; 0 picks a free one (default: %(default)s)",
    )
    place.add_argument("--uds", type=Path, metavar="PATH", help="listen on a Unix socket instead")
    who = parser.add_argument_group("who may speak")
    who.add_argument("--api-key", help="key that clients must send (default: $ORPHEUS_API_KEY)")
    who.add_argument(
        "--insecure",
        action="store_true",
        help="serve everyone who can reach the address, without a key",
    )
    who.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="let pages of this origin in, as https://example.org; may be given several times",
    )
    size = parser.add_argument_group("limits")
    size.add_argument("--max-turns", type=int, help="turns that speak at once (default: measured)")
    size.add_argument(
        "--max-text",
        type=int,
        default=MAX_TEXT_CHARS,
        help="characters per turn (default: %(default)s)",
    )
    size.add_argument(
        "--max-connections", type=int, default=limits.connections, help="default: %(default)s"
    )
    size.add_argument(
        "--turn-idle",
        type=float,
        default=limits.turn_idle_s,
        metavar="S",
        help="default: %(default)s",
    )
    size.add_argument(
        "--turn-total",
        type=float,
        default=limits.turn_total_s,
        metavar="S",
        help="default: %(default)s",
    )
    parser.add_argument(
        "--voice-map",
        type=Path,
        metavar="FILE.json",
        help="which voice speaks for unmute's and OpenAI's names (default: a built-in table)",
    )
    life = parser.add_argument_group("life and log")
    life.add_argument(
        "--idle-exit", type=float, metavar="S", help="end when nobody was connected for so long"
    )
    life.add_argument(
        "--drain",
        type=float,
        default=30.0,
        metavar="S",
        help="let turns end (default: %(default)s)",
    )
    life.add_argument(
        "--nice",
        type=int,
        default=0,
        choices=range(20),
        metavar="0-19",
        help="how far a model on the CPU gives way to other programs, such as agents that send sound (Unix)",
    )
    life.add_argument("--log-file", type=Path, help="default: standard error")
    life.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    life.add_argument("--log-text", action="store_true", help="log what is spoken")


def serve(args: argparse.Namespace) -> int:
    """Run `orpheus-tts serve`. Raises OrpheusError for options that cannot be served."""
    api_key = args.api_key or os.environ.get("ORPHEUS_API_KEY") or None
    if args.uds is None:
        check_bind(args.host, api_key=api_key, insecure=args.insecure)
    logs.set_up(level=args.log_level, file=args.log_file)
    if args.nice and hasattr(os, "nice") and pick_device(args.device) == "cpu":
        os.nice(args.nice)
    engine = LocalEngine(
        EngineConfig(
            model=args.model,
            codec=args.codec,
            device=args.device,
            generator=args.generator,
            urls=tuple(args.token_server),
            max_turns=args.max_turns,
            measure=args.max_turns is None,
            max_text_chars=args.max_text,
        )
    )
    return asyncio.run(_serve(args, engine, api_key))


async def _serve(args: argparse.Namespace, engine: SpeechEngine, api_key: str | None) -> int:
    limits = Limits(
        connections=args.max_connections,
        turn_idle_s=args.turn_idle,
        turn_total_s=args.turn_total,
        message_bytes=max(Limits().message_bytes, 8 * args.max_text),
    )
    service = SpeechService(
        engine, limits=limits, max_text_chars=args.max_text, log_text=args.log_text
    )
    app = make_app(
        service,
        api_key=api_key,
        loopback_only=args.uds is not None or is_loopback(args.host),
        origins=args.allow_origin,
        voices=VoiceMap.load(args.voice_map),
    )

    def record(url: str) -> contextlib.AbstractContextManager[None]:
        print(f"orpheus-tts: listening on {url}", flush=True)
        key = api_key if os.environ.get("ORPHEUS_AUTOSTARTED") else None
        return recorded(RunningServer(url, args.model, args.device, os.getpid(), key))

    server = Server(
        service,
        app,
        host=args.host,
        port=args.port,
        uds=args.uds,
        idle_exit_s=args.idle_exit,
        drain_s=args.drain,
        on_listening=record,
        on_ready=_keep_what_is_loaded,
    )
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):  # Windows
            loop.add_signal_handler(name, server.stop)
    return await server.run()


def _keep_what_is_loaded() -> None:
    """The garbage collector need not look again at what is there by now. With torch loaded a full collection holds up
    every thread, and so everyone's audio, for a tenth of a second."""
    gc.collect()
    gc.freeze()


__all__ = ["DEFAULT_PORT", "Server", "add_arguments", "make_app", "serve"]
