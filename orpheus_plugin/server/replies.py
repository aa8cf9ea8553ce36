"""Errors as HTTP answers, in the shape OpenAI's clients expect; other clients read the status."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from orpheus_plugin.errors import BadMessage, OrpheusError, TurnTimedOut

logger = logging.getLogger(__name__)

BODY_S = 10.0
"""A request's body must have come by then."""


def error_response(error: OrpheusError) -> web.Response:
    status = error.http_status
    return web.json_response(
        {
            "error": {
                "message": error.message,
                "type": "invalid_request_error" if status < 429 else "server_error",
                "code": error.code,
                "param": None,
            }
        },
        status=status,
        headers={"Retry-After": "1"} if error.retryable else None,
    )


async def json_body(request: web.Request) -> dict[str, Any]:
    """The body as an object. Raises BadMessage, or TurnTimedOut where it does not come."""
    try:
        async with asyncio.timeout(BODY_S):
            text = await request.text()
    except TimeoutError:
        raise TurnTimedOut(f"the request's body did not come within {BODY_S:g} s") from None
    except (ValueError, LookupError):
        raise BadMessage("the body is not text") from None
    return json_object(text)


def json_object(text: str) -> dict[str, Any]:
    """Raises BadMessage for anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise BadMessage("not a JSON object") from None
    if not isinstance(value, dict):
        raise BadMessage("not a JSON object")
    return value


@web.middleware
async def errors_as_responses(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Our errors get their status; anything else is logged here and told without its insides."""
    try:
        return await handler(request)
    except OrpheusError as error:
        return error_response(error)
    except (web.HTTPException, ConnectionError):
        raise
    except Exception:
        logger.exception("a request failed", extra={"path": request.path})
        return error_response(OrpheusError("internal error; the server's log has it"))
