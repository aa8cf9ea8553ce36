"""The servers of a CompletionsGenerator: their addresses, their health, and which one is used
next."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp

from orpheus_plugin.errors import (
    AtCapacity,
    ConnectionFailed,
    EngineDied,
    InvalidOptions,
    OrpheusError,
)
from orpheus_plugin.tokens.completions.options import CompletionsOptions
from orpheus_plugin.tokens.completions.parsing import first_model

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Server:
    """One server and its state.

    Attributes:
        base: url up to and including `/v1`.
        running: requests of ours on it.
        healthy: whether it answered the last health check.
        model: the model's name on it.
        takes_ids: whether it takes prompts as ids; None until it has been tried.
    """

    base: str
    running: int = 0
    healthy: bool = True
    model: str | None = None
    takes_ids: bool | None = None

    @property
    def health(self) -> str:
        return self.base.removesuffix("/v1") + "/health"


class ServerPool:
    """The servers of one model, one HTTP session for all of them, and a task that checks their
    health.

    Args:
        urls: `http://host:port`, with or without `/v1` (or `/v1/completions`) at the end.
        api_key: sent as a bearer token.
    """

    def __init__(
        self, urls: Iterable[str], options: CompletionsOptions, *, api_key: str | None
    ) -> None:
        self.servers = [Server(_base(url), model=options.model) for url in urls]
        if not self.servers:
            raise InvalidOptions("at least one url is needed")
        self._options = options
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._session: aiohttp.ClientSession | None = None
        self._checking: asyncio.Task[None] | None = None
        self._turn = itertools.count()

    @property
    def session(self) -> aiohttp.ClientSession:
        """Raises EngineDied before `start` and after `aclose`."""
        if self._session is None:
            raise EngineDied("the connection to the token servers is closed")
        return self._session

    def check_open(self) -> None:
        """Raises EngineDied before `start` and after `aclose`."""
        _ = self.session

    async def start(self) -> None:
        """Ask every server for its model. Raises ConnectionFailed if none answers, InvalidOptions
        if one refuses the key."""
        if self._session is not None:
            return
        self._session = aiohttp.ClientSession(
            headers=self._headers,
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(
                total=None,
                sock_connect=self._options.connect_timeout_s,
                sock_read=self._options.silence_timeout_s,
            ),
        )
        try:
            failures = await asyncio.gather(
                *(self._ask_model(server) for server in self.servers), return_exceptions=True
            )
            for failure in failures:
                if failure is not None and not isinstance(failure, ConnectionFailed):
                    raise failure
            for failure in failures:
                if failure is not None:
                    logger.warning("%s", failure)
            if all(failures):
                raise ConnectionFailed("; ".join(str(failure) for failure in failures))
        except BaseException:
            await self.aclose()
            raise
        self._checking = asyncio.create_task(self._check(), name="orpheus-server-health")

    async def aclose(self) -> None:
        """Close all connections. Idempotent."""
        session, self._session = self._session, None
        checking, self._checking = self._checking, None
        if checking is not None:
            checking.cancel()
            await asyncio.gather(checking, return_exceptions=True)
        if session is not None:
            await session.close()

    def in_order(self) -> list[Server]:
        """Healthy servers first, by load; servers of equal load in rotation."""
        shift = next(self._turn) % len(self.servers)
        turned = self.servers[shift:] + self.servers[:shift]
        return sorted(turned, key=lambda server: (not server.healthy, server.running))

    async def _ask_model(self, server: Server) -> None:
        """Check that a server answers, and read the name of its model."""
        try:
            async with self.session.get(f"{server.base}/models") as response:
                if response.status in (401, 403):
                    raise refusal(server, response.status, "")
                server.healthy = response.status < 500
                if not server.healthy:
                    raise ConnectionFailed(f"{server.base} answers {response.status}")
                if server.model is None:
                    server.model = first_model(await response.read())
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            server.healthy = False
            raise ConnectionFailed(f"{server.base} cannot be reached: {reason(error)}") from error

    async def _check(self) -> None:
        """Keep every server's `healthy` up to date."""
        while True:
            await asyncio.sleep(self._options.health_interval_s)
            await asyncio.gather(*(self._check_one(server) for server in self.servers))

    async def _check_one(self, server: Server) -> None:
        was = server.healthy
        try:
            if server.model is None:
                await self._ask_model(server)
            timeout = aiohttp.ClientTimeout(total=self._options.connect_timeout_s)
            async with self.session.get(server.health, timeout=timeout) as response:
                server.healthy = response.status < 500  # 404: no such page, but it answers
        except (OrpheusError, aiohttp.ClientError, TimeoutError, OSError):
            server.healthy = False
        if server.healthy != was:
            logger.warning("%s is %s", server.base, "up" if server.healthy else "down")


def refusal(server: Server, status: int, said: str) -> OrpheusError:
    """The error for an answer of this HTTP status. `said`: the server's message."""
    if status in (401, 403):
        return InvalidOptions(
            f"{server.base} refuses the api key ({status}); give the right one as api_key"
        )
    if status in (429, 503):
        return AtCapacity(f"{server.base} is full: {said}")
    if status >= 500:
        return ConnectionFailed(f"{server.base} failed ({status}): {said}")
    return InvalidOptions(f"{server.base} refuses the request ({status}): {said}")


def reason(error: BaseException) -> str:
    """An exception as text; timeouts have no message of their own."""
    return str(error) or type(error).__name__


def _base(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise InvalidOptions(f"{url!r} is not a url such as http://host:8000/v1")
    base = url.split("?")[0].rstrip("/").removesuffix("/completions").rstrip("/")
    return base if base.endswith("/v1") else f"{base}/v1"
