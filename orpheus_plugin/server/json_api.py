"""Request bodies as objects, and errors as HTTP answers in the form that OpenAI's clients expect.
Other clients read the status."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated, TypeVar

import msgspec
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from orpheus_plugin.errors import BadMessage, InvalidOptions, OrpheusError, TurnTimedOut
from orpheus_plugin.options import SPEEDS, SpeechOptions

T = TypeVar("T")

logger = logging.getLogger(__name__)

BODY_S = 10.0
"""Seconds within which a request's body must have come."""

REFUSALS = 20
"""Wrong requests after which a connection is closed."""

_CODES = {404: "not_found", 405: "method_not_allowed", 413: "too_large", 415: "unsupported_media"}


def error_response(error: OrpheusError) -> web.Response:
    retry = {"Retry-After": "1"} if error.retryable else {}
    return http_error(error.http_status, error.code, error.message, **retry)


def http_error(status: int, code: str, message: str, **headers: str) -> web.Response:
    body = {
        "error": {
            "message": message,
            "type": "invalid_request_error" if status < 429 else "server_error",
            "code": code,
            "param": None,
        }
    }
    return web.json_response(body, status=status, headers=headers)


async def json_body(request: web.Request, kind: type[T]) -> T:
    """The body as an object. Raises what `json_object` raises, TurnTimedOut if it does not come,
    and HTTP errors.

    A body is JSON in UTF-8 and not compressed: a small compressed body could become large and slow
    to decode.
    """
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
        raise web.HTTPUnsupportedMediaType(text="send the body without Content-Encoding")
    if (request.charset or "utf-8").lower() not in ("utf-8", "utf8", "us-ascii"):
        raise web.HTTPUnsupportedMediaType(text="send the body as UTF-8")
    try:
        async with asyncio.timeout(BODY_S):
            if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
                await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                request.writer.output_size = 0
            body = await request.read()
    except TimeoutError:
        raise TurnTimedOut(f"the request's body did not come within {BODY_S:g} s") from None
    return json_object(body, kind)


async def continue_later(request: web.Request) -> None:
    """For routes with a body: `json_body` answers "Expect: 100-continue", after the key was
    checked."""


class Options(msgspec.Struct, kw_only=True):
    """The options of a turn that every JSON protocol of this server takes; null means not given."""

    voice: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    speed: float | None = None
    gain_db: float | None = None

    def speech(self) -> SpeechOptions:
        """Raises InvalidOptions."""
        return SpeechOptions(
            voice=self.voice,
            temperature=self.temperature,
            top_p=self.top_p,
            repetition_penalty=self.repetition_penalty,
            seed=self.seed,
            speed=self.speed,
            gain_db=self.gain_db,
        )


class WideOptions(Options, kw_only=True):
    """Options of a protocol whose speed goes from 0.25 to 4: what is beyond a turn's own range is
    left to the encoder."""

    speed: Annotated[float, msgspec.Meta(ge=0.25, le=4.0)] | None = None

    def speech(self) -> SpeechOptions:
        asked, self.speed = self.speed, self._within
        try:
            return super().speech()
        finally:
            self.speed = asked

    @property
    def speed_left(self) -> float:
        """The speed to encode the turn's audio with."""
        return (self.speed or 1.0) / (self._within or 1.0)

    @property
    def _within(self) -> float | None:
        low, high = SPEEDS
        return None if self.speed is None else min(high, max(low, self.speed))


def json_object(text: bytes | str, kind: type[T]) -> T:
    """Raises InvalidOptions for wrong fields, BadMessage for a text that is not a JSON object."""
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError as error:
        raise InvalidOptions(_plain(error)) from None
    except (ValueError, RecursionError):  # DecodeError, UnicodeError
        raise BadMessage("not a JSON object in UTF-8") from None


def _plain(error: msgspec.ValidationError) -> str:
    """ "speed: expected float <= 4.0", of "Expected `float` <= 4.0 - at `$.speed`"."""
    what, _, where = str(error).replace("`", "").partition(" - at $.")
    return f"{where}: {what[:1].lower()}{what[1:]}" if where else what


@web.middleware
async def errors_as_responses(request: web.Request, handler: Handler) -> web.StreamResponse:
    """OrpheusErrors get their status and HTTP errors become JSON. Other exceptions are logged and
    answered without details."""
    response = await _answer(request, handler)
    if response.status >= 400 and not response.prepared:
        # A client that sends only wrong requests has to connect again after some of them.
        seen = getattr(request.protocol, "refusals", 0) + 1
        request.protocol.refusals = seen  # type: ignore[attr-defined]
        if response.status in (401, 403) or seen >= REFUSALS:
            response.force_close()
    return response


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except OrpheusError as error:
        return error_response(error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        response = http_error(error.status, _CODES.get(error.status, "http_error"), _explain(error))
        if allow := error.headers.get(hdrs.ALLOW):
            response.headers[hdrs.ALLOW] = allow
        return response
    except ConnectionError:
        raise
    except Exception:
        logger.exception("a request failed", extra={"path": request.path})
        return error_response(OrpheusError("internal error; the server's log has it"))


def _explain(error: web.HTTPException) -> str:
    standard = f"{error.status}: {error.reason}"
    if error.text and error.text != standard:
        return error.text
    if error.status == 404:
        return "this server has no such path; docs/protocol.md lists them"
    return error.reason
