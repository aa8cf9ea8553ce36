"""The server's websockets: with pings, fair to other connections, without compression."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Self

from aiohttp import WSCloseCode, WSMsgType, web

from orpheus_plugin.errors import BadMessage
from orpheus_plugin.server.config import Limits

BURST = 32
"""Messages of one connection that are read before other connections are served."""

IDLE_MESSAGES = 1_000
IDLE_MESSAGES_PER_S = 50.0
"""Messages without effect (empty texts, of ended turns, of unknown types, refused openings) that a
client may send at once, and the rate at which it may send more. A client whose turn has just ended
sends some; a client that sends more is disconnected."""


OPEN = web.AppKey("open websockets", set)

CLOSE_S = 2.0
"""How long a client may take to answer a close."""


class Socket:
    """One client's websocket. One task receives; any task sends.

    Made by `accept`. Receiving also answers pings, so its owner has to keep receiving.
    """

    def __init__(
        self, response: web.WebSocketResponse, transport: asyncio.Transport | None
    ) -> None:
        self.response = response
        self._transport = transport
        self._ponged = asyncio.Event()
        self._asked = False  # to close
        self._left = asyncio.Event()
        self._received = 0
        self._allowed = float(IDLE_MESSAGES)
        self._allowed_at = time.monotonic()

    # ---- in

    async def receive(self) -> str | bytes | None:
        """The next text or binary message; None when the client is gone."""
        while True:
            message = await self.response.receive()
            self._received += 1
            if self._received % BURST == 0:
                await asyncio.sleep(0)
            kind = message.type
            if kind is WSMsgType.TEXT or kind is WSMsgType.BINARY:
                data: str | bytes = message.data
                return data
            if kind is WSMsgType.PONG:
                if self._ponged.is_set():  # one that was not asked for
                    self.idle_message()
                self._ponged.set()
            elif kind is WSMsgType.PING:
                self.idle_message()
                await self.response.pong(message.data)
            else:
                return None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str | bytes:
        message = await self.receive()
        if message is None:
            raise StopAsyncIteration
        return message

    def idle_message(self) -> None:
        """Count a message without effect. Raises BadMessage for a client that sends too many."""
        now = time.monotonic()
        more = IDLE_MESSAGES_PER_S * (now - self._allowed_at)
        self._allowed = min(IDLE_MESSAGES, self._allowed + more) - 1
        self._allowed_at = now
        if self._allowed < 0:
            raise BadMessage("too many messages without effect")

    # ---- out

    async def send(self, data: bytes | str) -> None:
        """Raises ConnectionError when the client is gone."""
        if isinstance(data, str):
            await self.response.send_str(data)
        else:
            await self.response.send_bytes(data)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close, and return when the client has answered. Only while no task receives: else aiohttp
        closes TCP at once, and what the client has not read may be lost."""
        await self.response.close(code=code, message=_short(reason))

    async def ask_to_close(self, code: int, reason: str) -> None:
        """Tell the client to close, while another task receives. The client reads everything that
        was sent before, and answers; `receive` then returns None. A client that does not answer
        within CLOSE_S is cut off."""
        if not self._asked:
            self._asked = True
            data = code.to_bytes(2, "big") + _short(reason)
            await self.response.send_frame(data, WSMsgType.CLOSE)
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._left.wait()
        except TimeoutError:
            if self._transport is not None:
                self._transport.abort()

    async def watch(self, every_s: float) -> None:
        """Ping the client, and close the connection when no pong comes within half of `every_s`.

        Only a pong counts: a client may send a byte now and then, but never a whole message.
        """
        with contextlib.suppress(ConnectionError):
            while True:
                await asyncio.sleep(every_s)
                self._ponged.clear()
                try:
                    async with asyncio.timeout(every_s / 2):
                        await self.response.ping()
                        await self._ponged.wait()
                except TimeoutError:
                    if self._transport is not None:
                        self._transport.abort()
                    return


def _short(reason: str) -> bytes:
    """A close frame takes 123 bytes of whole characters."""
    return reason.encode()[:120].decode(errors="ignore").encode()


@contextlib.asynccontextmanager
async def accept(
    request: web.Request, limits: Limits, *, message_bytes: int | None = None
) -> AsyncIterator[Socket]:
    """Upgrade the request. The block's end stops the pings; it does not close the websocket."""
    response = web.WebSocketResponse(
        autoping=False,
        max_msg_size=(message_bytes or limits.message_bytes) + 1,
        compress=False,
        timeout=CLOSE_S,
    )
    await response.prepare(request)
    socket = Socket(response, request.transport)
    watching = asyncio.create_task(socket.watch(limits.heartbeat_s), name="orpheus-ping")
    request.app[OPEN].add(socket)
    try:
        yield socket
    finally:
        request.app[OPEN].discard(socket)
        socket._left.set()
        watching.cancel()


async def close_all(app: web.Application) -> None:
    """Close the websockets that are still open when the server ends: they carry no turn."""
    asked = [socket.ask_to_close(WSCloseCode.GOING_AWAY, "shutting down") for socket in app[OPEN]]
    await asyncio.gather(*asked, return_exceptions=True)
