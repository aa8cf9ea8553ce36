"""HTTP connections with limits that aiohttp does not have.

They refuse compressed bodies, send no versions in headers, close connections without a request,
limit the number of connections and how much is parsed at once, and log a line, not a traceback, for
data that is not HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from orpheus_plugin.server.json_api import http_error

logger = logging.getLogger(__name__)

PRODUCT = "orpheus_plugin"

READ_BYTES = 16 * 1024
"""Bytes read from a socket at once. aiohttp parses them without a pause: 2,700 empty websocket
messages or chunks of a body fit, some 3 ms of work; in asyncio's own 256 KiB it is 128 ms."""

HEADERS_S = 20.0
"""Seconds within which a connection must send a request, or its next one."""

_REQUEST_ID = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)


class Runner(web.AppRunner):
    """Runs an application on connections of this kind.

    Args:
        connections: TCP connections open at once. Further ones are closed.
    """

    def __init__(self, app: web.Application, *, connections: int) -> None:
        self._limit = connections
        self._dropping: asyncio.Task[None] | None = None
        self._options: dict[str, Any] = {
            "handler_cancellation": True,
            "access_log": None,
            "auto_decompress": False,
            "keepalive_timeout": HEADERS_S,
            "lingering_time": 1.0,
            "logger": logger,
        }
        super().__init__(app, shutdown_timeout=2.0, **self._options)

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        server = _Server(self._limit, made, **self._options)
        self._dropping = asyncio.create_task(_drop_the_silent(server), name="orpheus-http")
        return server

    async def _cleanup_server(self) -> None:
        if self._dropping is not None:
            self._dropping.cancel()
        await super()._cleanup_server()


class _Server(web.Server):
    def __init__(self, limit: int, made: web.Server, **options: Any) -> None:
        super().__init__(made.request_handler, request_factory=made.request_factory, **options)
        self.limit = limit

    def __call__(self) -> RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Connection(RequestHandler):
    """One TCP connection.

    Attributes:
        refusals: its requests that were answered with an error.
    """

    def __init__(self, manager: _Server, **options: Any) -> None:
        super().__init__(manager, **options)
        self.refusals = 0
        self._server = manager

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if hasattr(transport, "max_size"):  # asyncio's own selector transports
            transport.max_size = READ_BYTES
        if len(self._server.connections) > self._server.limit:
            logger.warning("too many connections", extra={"limit": self._server.limit})
            assert isinstance(transport, asyncio.Transport)
            transport.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to a request that did not reach the application, or failed outside of it.
        Closes the connection."""
        if isinstance(exc, ConnectionError):
            raise exc  # the client left during the answer: not an error
        if status < 500:
            said = (message or type(exc).__name__).strip().partition("\n")[0][:200]
            logger.info("malformed request", extra={"from": request.remote, "error": said})
        else:
            logger.error("a request failed", exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun already")
        what = (
            "this is not an HTTP request"
            if status < 500
            else "internal error; the server's log has it"
        )
        response = http_error(status, "bad_request" if status < 500 else "error", what)
        response.headers["Server"] = PRODUCT
        response.force_close()
        return response


async def _drop_the_silent(server: _Server) -> None:
    """Close connections without a request: aiohttp waits for the request's head without a limit."""
    since: dict[RequestHandler, float] = {}
    while True:
        await asyncio.sleep(HEADERS_S / 4)
        now = asyncio.get_running_loop().time()
        silent = [handler for handler in server.connections if handler._current_request is None]
        since = {handler: since.get(handler, now) for handler in silent}
        for handler, seen in since.items():
            if now - seen >= HEADERS_S and handler.transport is not None:
                handler.transport.abort()


async def name_answer(request: web.Request, response: web.StreamResponse) -> None:
    """Add the server's name and the request's id, the client's own if it sent one, to an answer's
    headers."""
    response.headers["Server"] = PRODUCT
    given = request.headers.get("X-Request-Id", "")
    response.headers["X-Request-Id"] = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
