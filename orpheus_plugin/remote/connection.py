"""One websocket to a speech server (`orpheus-tts serve`), and the turns on it: the client's half of
the native protocol.

All of it runs on one event loop, that of its `RemoteEngine`. Only a `Link` is also called from the
loops that opened turns.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import aiohttp

from orpheus_plugin import protocol
from orpheus_plugin.errors import (
    BadMessage,
    ConnectionFailed,
    EngineDied,
    OrpheusError,
    Unauthorized,
    without_login,
)
from orpheus_plugin.remote.link import Link
from orpheus_plugin.speech_engine import EngineHealth

logger = logging.getLogger(__name__)

MAX_SERVER_MESSAGE = 4 * 1024 * 1024
HEARTBEAT_S = 5.0
"""Seconds between pings. A connection without an answer is closed after one and a half of this."""

LOOK_S = 1.0
"""Seconds between searches for turns that can no longer be read. A server whose window is full
sends nothing to such a turn."""

NO_HEALTH = EngineHealth(
    ready=False, model="", generator="none", active_turns=0, max_turns=0, restarts=0
)


# ---- addresses


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is: http(s)://host[:port][/prefix], ws(s)://..., host:port, or
    unix:///path."""

    url: str
    api_key: str | None = field(default=None, repr=False)


def websocket_url(url: str) -> tuple[str, Callable[[], aiohttp.BaseConnector] | None]:
    """Where to open the websocket, and through which connector. Raises ValueError for a bad
    address."""
    if "://" not in url:
        url = f"http://{url}"
    schemes = {"http": "ws", "ws": "ws", "https": "wss", "wss": "wss"}
    try:
        parts = urlsplit(url)
        known = parts.path if parts.scheme == "unix" else parts.scheme in schemes and parts.hostname
        _ = parts.port
    except ValueError:  # its text would quote a password
        known = None
    if not known:
        raise ValueError(f"not the address of a speech server: {without_login(url)!r}")
    if parts.scheme == "unix":
        return f"ws://localhost{protocol.PATH}", lambda: aiohttp.UnixConnector(parts.path)
    path = parts.path.rstrip("/").removesuffix(protocol.PATH)
    return f"{schemes[parts.scheme]}://{parts.netloc}{path}{protocol.PATH}", None


# ---- the connection


async def open_connection(address: Address, *, timeout_s: float) -> Connection:
    """Raises ConnectionFailed, or Unauthorized, after which it is useless to try again."""
    name = without_login(address.url)
    session: aiohttp.ClientSession | None = None
    try:
        async with asyncio.timeout(timeout_s):
            url, connector = websocket_url(address.url)
            session = aiohttp.ClientSession(connector=connector() if connector else None)
            ws = await session.ws_connect(
                url,
                headers={"Authorization": f"Bearer {address.api_key}"} if address.api_key else {},
                heartbeat=HEARTBEAT_S,
                max_msg_size=MAX_SERVER_MESSAGE,
                compress=0,
            )
            hello = protocol.from_server(await ws.receive_bytes(), max_bytes=MAX_SERVER_MESSAGE)
        if not isinstance(hello, protocol.Hello) or hello.protocol != protocol.PROTOCOL:
            raise ConnectionFailed(
                f"{name} speaks another protocol; use the same version of orpheus_plugin on both"
                " ends"
            )
        return Connection(session, ws, hello)
    except BaseException as error:
        if session is not None:
            await session.close()
        if isinstance(error, OrpheusError) or not isinstance(error, Exception):
            raise
        raise _explain(name, error) from None


def _explain(url: str, error: Exception) -> OrpheusError:
    """The error to raise for a failed connection. `url` contains no login."""
    if isinstance(error, aiohttp.WSServerHandshakeError):
        if error.status in (401, 403):
            return Unauthorized(
                f"{url} refused the connection: give it the api_key it was started with"
                if error.status == 401
                else f"{url} refused the connection (403): it accepts other host names only"
            )
        if error.status == 429 or error.status >= 500:  # also of a proxy without its servers
            return ConnectionFailed(
                f"{url} takes no connections at the moment ({error.status})", server_busy=True
            )
        return ConnectionFailed(
            f"{url} is not an Orpheus server of this version (status {error.status})"
        )
    if isinstance(error, TimeoutError):
        return ConnectionFailed(f"{url} did not answer in time", server_busy=True)
    reason = without_login(str(error)) or type(error).__name__
    return ConnectionFailed(f"cannot reach {url}: {reason}")


class Connection:
    """A websocket on which the server has sent its `hello`.

    Attributes:
        hello: the server's `hello`: voices, languages, tags, limits.
        health, load: as the server reported them, at most a second ago.
        retired: no new turns on this connection; its open turns may still go on.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        ws: aiohttp.ClientWebSocketResponse,
        hello: protocol.Hello,
    ) -> None:
        self.hello = hello
        self.health, self.load = hello.health, hello.load
        self.retired = asyncio.Event()
        self._session = session
        self._ws = ws
        self._links: dict[str, Link] = {}
        self._out: asyncio.Queue[bytes] = asyncio.Queue()

    @property
    def turns(self) -> int:
        """Number of open turns."""
        return len(self._links)

    def open_turn(self, link: Link, *, may_wait: bool = True) -> None:
        """Open a turn here, and send the text its caller has pushed so far. Not for a turn that has
        ended.

        Args:
            may_wait: whether it may wait in line for a place.
        """
        self._links[link.id] = link
        link.attach(self, may_wait=may_wait)

    def send(self, message: protocol.ClientMessage) -> None:
        self._out.put_nowait(protocol.pack(message))

    def release(self, link: Link) -> None:
        self._links.pop(link.id, None)

    async def run(self) -> None:
        """Runs until the connection ends. Then every turn still on it continues on another
        connection, or fails."""
        helpers = [
            asyncio.create_task(self._write(), name="orpheus-client-write"),
            asyncio.create_task(self._end_orphans(), name="orpheus-client-orphans"),
        ]
        end: OrpheusError = ConnectionFailed("the connection to the speech server was lost")
        try:
            async for message in self._ws:
                if message.type is aiohttp.WSMsgType.BINARY:
                    self._take(protocol.from_server(message.data, max_bytes=MAX_SERVER_MESSAGE))
        except BadMessage as error:
            end = ConnectionFailed(f"the speech server sent a malformed message: {error}")
        except asyncio.CancelledError:
            end = EngineDied("this engine was closed")
            raise
        finally:
            for helper in helpers:
                helper.cancel()
            self.retired.set()
            for link in list(self._links.values()):
                link.lose(end)
            try:
                with contextlib.suppress(Exception):
                    async with asyncio.timeout(1):
                        await self._ws.close()
            finally:
                await self._session.close()

    async def _write(self) -> None:
        try:
            while True:
                await self._ws.send_bytes(await self._out.get())
        except ConnectionError:
            pass  # the reader sees the end, too

    async def _end_orphans(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            for link in list(self._links.values()):
                if link.orphaned:
                    link.end_orphan()

    def _take(self, message: protocol.ServerMessage | None) -> None:
        match message:
            case protocol.Health(health, load):
                self.health, self.load = health, load
            case protocol.Goodbye():
                self.retired.set()
            case protocol.Error(None, _, text):
                logger.warning("the speech server ends the connection: %s", text)
            case None | protocol.Hello():
                pass
            case _:
                link = self._links.get(message.id or "")
                if link is not None:
                    link.take(message)
