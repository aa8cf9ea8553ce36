"""The web application: all protocols over one service."""

from __future__ import annotations

from collections.abc import Collection

from aiohttp import web

from orpheus_plugin.server import health, status, websocket
from orpheus_plugin.server.http import name_answer
from orpheus_plugin.server.json_api import errors_as_responses
from orpheus_plugin.server.protocols import baseten, native, omni, openai, unmute
from orpheus_plugin.server.security import cors, guard
from orpheus_plugin.server.service import SpeechService


def make_app(
    service: SpeechService,
    *,
    api_key: str | None = None,
    loopback_only: bool = True,
    origins: Collection[str] = (),
) -> web.Application:
    """All endpoints over one service. Run it with `http.Runner`."""
    app = web.Application(
        middlewares=[
            errors_as_responses,
            guard(api_key=api_key, loopback_only=loopback_only, origins=origins),
        ],
        client_max_size=service.limits.message_bytes,
    )
    app.on_response_prepare.extend([name_answer, cors(origins)])
    app[websocket.OPEN] = set()
    app.on_shutdown.append(websocket.close_all)
    status.add_routes(app)
    health.add_routes(app, service, key_needed=api_key is not None)
    for protocol in (native, unmute, openai, baseten, omni):
        protocol.add_routes(app, service)
    return app
