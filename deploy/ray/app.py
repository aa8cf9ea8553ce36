"""Replicas of the speech server behind Ray Serve's proxy: `serve run deploy.ray.app:app` in the
repository's root.

Each replica is a whole server with its engine, in one Ray actor. Ray's proxy hands it HTTP requests
and websockets as ASGI calls; they are passed on to the server's Unix socket, so every protocol of
the server works unchanged.

Settings are environment variables: those of `orpheus-tts serve` for the server itself
(docs/protocol.md), and

    ORPHEUS_MAX_TURNS          turns a replica takes at once (8): what was measured
    ORPHEUS_MIN_REPLICAS       replicas at least (1)
    ORPHEUS_MAX_REPLICAS       replicas at most (as many); more turns autoscaling on
    ORPHEUS_GPUS_PER_REPLICA   GPUs of a replica, or a share of one (0)

Ray counts connections, of which an agent keeps one for many turns, and hands a new one to the
replica with fewer. A replica takes four for each turn; its own server decides about turns, and
refuses those beyond ORPHEUS_MAX_TURNS or lets them wait as long as their clients allow. If all
replicas have all their connections, the proxy answers 503.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import tempfile
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import aiohttp

from orpheus_plugin.cli.serve import configure
from orpheus_plugin.engine.local import LocalEngine
from orpheus_plugin.server.process import make_server
from orpheus_plugin.server.voice_map import VoiceMap
from ray import serve

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

logger = logging.getLogger("orpheus_plugin.ray")

MAX_TURNS = int(os.environ.get("ORPHEUS_MAX_TURNS", "8"))
MIN_REPLICAS = int(os.environ.get("ORPHEUS_MIN_REPLICAS", "1"))
MAX_REPLICAS = int(os.environ.get("ORPHEUS_MAX_REPLICAS", str(MIN_REPLICAS)))
GPUS = float(os.environ.get("ORPHEUS_GPUS_PER_REPLICA", "0"))

CONNECTIONS = 4 * MAX_TURNS
"""Connections of a replica. Connections without a turn cost nothing."""

DRAIN_S = 60.0
"""How long a replica that is replaced or no longer needed may go on with its turns."""

MESSAGE_BYTES = 4 * 2**20
OF_ONE_HOP = frozenset(
    {
        *(b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"content-length"),
        *(b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-extensions"),
        b"sec-websocket-protocol",
    }
)
"""Headers that each hop makes for itself."""


class PassThrough:
    """An ASGI application that hands everything to the HTTP server on a Unix socket.

    Cost: a message's way through Ray's proxy and this, and back, is about 2 ms.
    """

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._client: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._client is None:  # on the loop that calls
            self._client = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(str(self._socket), limit=0),
                timeout=aiohttp.ClientTimeout(total=None),
                auto_decompress=False,
            )
        url = f"http://server{scope['path']}"
        if query := scope.get("query_string"):
            url += f"?{query.decode('latin-1')}"
        headers = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in scope["headers"]
            if name.lower() not in OF_ONE_HOP
        ]
        if scope["type"] == "http":
            await self._http(self._client, scope["method"], url, headers, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(self._client, url, headers, scope, receive, send)

    async def _http(
        self,
        client: aiohttp.ClientSession,
        method: str,
        url: str,
        headers: list[tuple[str, str]],
        receive: Receive,
        send: Send,
    ) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        try:
            async with client.request(
                method, url, headers=headers, data=body or None, allow_redirects=False
            ) as answer:
                await send(
                    {
                        "type": "http.response.start",
                        "status": answer.status,
                        "headers": [
                            (name.lower(), value)
                            for name, value in answer.raw_headers
                            if name.lower() not in OF_ONE_HOP - {b"content-length"}
                        ],
                    }
                )
                async for piece in answer.content.iter_any():
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
        except (aiohttp.ClientConnectionError, OSError) as error:
            logger.error("the server of this replica does not answer: %r", error)
            raise

    async def _websocket(
        self,
        client: aiohttp.ClientSession,
        url: str,
        headers: list[tuple[str, str]],
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        await receive()  # websocket.connect
        try:
            socket = await client.ws_connect(
                url,
                headers=headers,
                protocols=scope.get("subprotocols") or (),
                max_msg_size=MESSAGE_BYTES,
                compress=0,
                autoping=True,
            )
        except aiohttp.WSServerHandshakeError as error:
            # Before `accept`, a close refuses the handshake. ASGI has no field for the status.
            logger.info("a websocket was refused with status %d", error.status)
            await send({"type": "websocket.close", "code": 1008, "reason": str(error.status)})
            return
        async with socket:
            await send({"type": "websocket.accept", "subprotocol": socket.protocol})
            outward = asyncio.create_task(_outward(socket, send))
            try:
                await _inward(socket, receive)
                await outward
            finally:
                outward.cancel()
                await asyncio.gather(outward, return_exceptions=True)


async def _inward(socket: aiohttp.ClientWebSocketResponse, receive: Receive) -> None:
    """The client's messages to the server, until the client closes."""
    while (message := await receive())["type"] == "websocket.receive":
        with contextlib.suppress(
            ConnectionError
        ):  # the server has closed: its close is on its way out
            if message.get("bytes") is not None:
                await socket.send_bytes(message["bytes"])
            else:
                await socket.send_str(message["text"])
    await socket.close(code=message.get("code") or 1000)


async def _outward(socket: aiohttp.ClientWebSocketResponse, send: Send) -> None:
    """The server's messages to the client, until the server closes."""
    async for message in socket:
        if message.type is aiohttp.WSMsgType.BINARY:
            await send({"type": "websocket.send", "bytes": message.data})
        elif message.type is aiohttp.WSMsgType.TEXT:
            await send({"type": "websocket.send", "text": message.data})
    with contextlib.suppress(RuntimeError):  # the client has closed already
        await send({"type": "websocket.close", "code": socket.close_code or 1006})


class Replica:
    """One server: started with the actor, watched by Ray's health check, drained when the actor is
    stopped."""

    async def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="orpheus-ray-")
        socket = Path(self._folder.name, "server.sock")
        config = configure("--uds", str(socket), "--drain", str(DRAIN_S))
        self._server = make_server(
            config, LocalEngine(config.engine), VoiceMap.load(config.voice_map)
        )
        self._running = asyncio.create_task(self._server.run(), name="orpheus-server")
        ready = asyncio.create_task(self._server.ready.wait())
        await asyncio.wait({ready, self._running}, return_when=asyncio.FIRST_COMPLETED)
        if self._running.done():
            raise RuntimeError(f"the server ended with code {self._running.result()}; see its log")
        self.pass_through = PassThrough(socket)

    async def check_health(self) -> None:
        """Called by Ray every few seconds; what it raises makes Ray replace this replica."""
        if self._running.done():
            raise RuntimeError("the server of this replica has ended")

    async def __del__(self) -> None:
        self._server.stop()
        await asyncio.wait({self._running}, timeout=DRAIN_S + 10)


async def _answer(scope: Scope, receive: Receive, send: Send) -> None:
    """What Ray calls: the replica of this actor answers."""
    if scope["type"] == "lifespan":  # the replica starts and ends the server itself
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": f"{message['type']}.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    replica = serve.get_replica_context().servable_object
    await replica.pass_through(scope, receive, send)


def _build() -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    """Ray takes a function for a builder of an application."""
    return _answer


def deployment() -> Any:
    """The deployment with its scaling, by the environment."""
    scaling: dict[str, Any] = {"num_replicas": MIN_REPLICAS}
    if MAX_REPLICAS > MIN_REPLICAS:
        scaling = {
            "autoscaling_config": {
                "min_replicas": MIN_REPLICAS,
                "max_replicas": MAX_REPLICAS,
                # A replica loads for minutes: the next one starts before the last place is taken.
                "target_ongoing_requests": max(1, round(0.7 * MAX_TURNS)),
                "upscale_delay_s": 5,
                "downscale_delay_s": 600,
            }
        }
    return serve.deployment(
        name="orpheus-tts",
        ray_actor_options={"num_cpus": 0, "num_gpus": GPUS},
        max_ongoing_requests=CONNECTIONS,
        # Those that come at the same moment count as queued until each has its replica.
        max_queued_requests=CONNECTIONS,
        health_check_period_s=5,
        health_check_timeout_s=20,
        graceful_shutdown_wait_loop_s=2,
        graceful_shutdown_timeout_s=DRAIN_S + 15,
        **scaling,
    )(serve.ingress(_build)(Replica))


app = deployment().bind()
