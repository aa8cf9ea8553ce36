"""`/healthz`: the process runs. `/readyz` and `/health`: it takes turns. `/metrics`: Prometheus."""

from __future__ import annotations

import statistics
import time

from aiohttp import web

from orpheus_plugin.server.http import PRODUCT
from orpheus_plugin.server.service import SpeechService
from orpheus_plugin.version import __version__


def add_routes(app: web.Application, service: SpeechService, *, key_needed: bool) -> None:
    def state() -> dict[str, object]:
        found = _state(service)
        if key_needed and found["error"] is not None:
            found["error"] = (
                "see the server's log"  # its text may contain file names, and anyone may read this
            )
        return found

    async def healthz(request: web.Request) -> web.Response:
        found = {**state(), "key_needed": key_needed}
        if "recent" in request.query:  # for the page's plots
            now = time.monotonic()
            found["recent"] = [
                {"ago_s": round(now - turn.at, 1), "ttfa_s": turn.ttfa_s, "rtfx": turn.rtfx}
                for turn in service.recent
            ]
        return web.json_response(found)

    async def readyz(request: web.Request) -> web.Response:
        found = state()
        return web.json_response(found, status=200 if found["ready"] else 503)

    async def empty(request: web.Request) -> web.Response:
        """As in vLLM, SGLang and Truss: a status without a body."""
        return web.Response(status=200 if state()["ready"] else 503)

    async def metrics(request: web.Request) -> web.Response:
        body = service.metrics.render()
        if body is None:
            return web.Response(
                status=501,
                text='metrics need prometheus-client: pip install "orpheus_plugin[server]"\n',
            )
        return web.Response(
            body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/health", empty)
    app.router.add_get("/metrics", metrics)


def _state(service: SpeechService) -> dict[str, object]:
    health = service.engine.health()
    ttfa = [turn.ttfa_s for turn in service.recent]
    return {
        "server": PRODUCT,
        "version": __version__,
        "ready": service.ready and health.ready and not service.draining.is_set(),
        "draining": service.draining.is_set(),
        "model": health.model,
        "generator": health.generator,
        "voices": list(service.engine.voices),
        "adapters": list(service.engine.adapters),
        "languages": list(service.engine.languages),
        "tags": list(service.engine.tags),
        "active_turns": health.active_turns,
        "max_turns": health.max_turns,
        "waiting": health.waiting,
        "connections": service.connections,
        "ttfa_p50_s": statistics.median(ttfa) if ttfa else None,
        "restarts": health.restarts,
        "error": health.error,
    }
