"""Access to the server: key, origin, host, and the addresses on which it may listen."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Collection
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from orpheus_plugin.errors import InvalidOptions
from orpheus_plugin.server import status
from orpheus_plugin.server.json_api import http_error

logger = logging.getLogger(__name__)

Signal = Callable[[web.Request, web.StreamResponse], Awaitable[None]]

OPEN_PATHS = status.PATHS | {"/health", "/healthz", "/readyz", "/api/build_info"}
"""Paths that need no key: they contain no secrets and start no work."""


EXPOSED = "x-request-id, x-sample-rate, retry-after"
"""Our headers that pages of other origins may read."""


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_bind(host: str, *, api_key: str | None, insecure: bool) -> None:
    """Raises InvalidOptions for an address that other machines can reach if there is no key."""
    if not is_loopback(host) and not api_key and not insecure:
        raise InvalidOptions(
            f"listening on {host} lets others in: give --api-key (or ORPHEUS_API_KEY), or"
            " --insecure to serve everyone who can reach it"
        )


def given_keys(request: web.Request) -> list[str]:
    """The keys that a client sent, in all places that protocols use."""
    scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
    keys = [
        credentials.strip() if scheme.lower() in ("bearer", "api-key") else "",
        request.headers.get("kyutai-api-key", ""),
        request.headers.get("x-api-key", ""),
        request.headers.get("api-key", ""),
        request.query.get("auth_id", ""),
    ]
    return [key for key in keys if key]


def _matches(given: list[str], expected: bytes) -> bool:
    found = False
    for key in given:
        found |= hmac.compare_digest(key.encode("utf-8", "surrogateescape"), expected)
    return found


def guard(*, api_key: str | None, loopback_only: bool, origins: Collection[str] = ()) -> Middleware:
    """A middleware that checks the key before any upgrade or body, in the same time for every wrong
    key.

    Browsers reach loopback, too: a page of another origin is refused, and without a key also a host
    name that was made to point to this machine (DNS rebinding). Pages of the `origins` ("*": of
    any) may send requests and read the answers.
    """
    expected = api_key.encode() if api_key else None

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not _origin_allowed(request, origins):
            return http_error(
                403, "origin_not_allowed", "pages of this origin are refused; see --allow-origin"
            )
        if expected is None and loopback_only and not _host_is_loopback(request):
            return http_error(403, "host_not_allowed", "this server answers to localhost only")
        if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
            return web.Response(status=204)  # a browser's preflight request has no key
        if (
            expected is not None
            and request.path not in OPEN_PATHS
            and not _matches(given_keys(request), expected)
        ):
            await asyncio.sleep(0.05)
            return http_error(
                401, "unauthorized", "a valid API key is needed", **{"WWW-Authenticate": "Bearer"}
            )
        return await handler(request)

    return check


def cors(origins: Collection[str]) -> Signal:
    """Add the headers with which a browser lets a page of another origin read the answer."""

    async def add(request: web.Request, response: web.StreamResponse) -> None:
        if not origins:
            return
        response.headers["Vary"] = "Origin"
        origin = request.headers.get("Origin")
        if origin is None or not ("*" in origins or origin in origins):
            return
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = EXPOSED
        if request.method == "OPTIONS":
            response.headers["Access-Control-Allow-Methods"] = "GET, POST"
            response.headers["Access-Control-Allow-Headers"] = request.headers.get(
                "Access-Control-Request-Headers", "*"
            )
            response.headers["Access-Control-Max-Age"] = "600"
            if "Access-Control-Request-Private-Network" in request.headers:
                response.headers["Access-Control-Allow-Private-Network"] = "true"

    return add


def _origin_allowed(request: web.Request, origins: Collection[str]) -> bool:
    origin = request.headers.get("Origin")
    if origin is None or "*" in origins or origin in origins:
        return True
    try:
        return urlsplit(origin).netloc == request.headers.get("Host")
    except ValueError:
        return False


def _host_is_loopback(request: web.Request) -> bool:
    if request.transport is not None and not isinstance(
        request.transport.get_extra_info("peername"), tuple
    ):
        return True  # a Unix socket: the file's mode decides who may connect
    try:
        name = urlsplit(f"//{request.headers.get('Host', '')}").hostname
    except ValueError:
        return False
    return name is not None and is_loopback(name)
