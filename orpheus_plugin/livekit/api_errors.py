"""This package's errors, as LiveKit Agents knows errors: it retries, falls back or gives up by their kind."""

from __future__ import annotations

from livekit.agents import APIConnectionError, APIError, APIStatusError, APITimeoutError

from orpheus_plugin.errors import OrpheusError, without_login

_STATUS = {
    "invalid_options": 400,
    "unknown_voice": 400,
    "text_too_long": 413,
    "at_capacity": 429,
    "model_not_found": 404,
    "generation_failed": 500,
    "bad_checkpoint": 500,
    "bad_message": 400,
    "unauthorized": 401,
    "shutting_down": 503,
    "timed_out": 408,
}

_NO_ENGINE = {"engine_died", "connection_failed", "server_not_started"}

_ABOUT_ONE_TURN = {"text_too_long", "at_capacity", "generation_failed", "timed_out"}


def to_api_error(error: Exception, *, request_id: str = "") -> APIError:
    """The APIError that stands for `error`. Raise it `from None`: a cause may hold headers or addresses with keys.

    An APIStatusError's `body` is `{"code": ...}` with the stable code of the original error.
    """
    if isinstance(error, APIError):
        return error
    if isinstance(error, TimeoutError):
        return APITimeoutError("the speech engine did not answer in time")
    if isinstance(error, OrpheusError) and error.code in _NO_ENGINE:
        return APIConnectionError(without_login(error.message), retryable=error.retryable)
    if isinstance(error, OrpheusError):
        status = _STATUS.get(error.code)
        if status is None:
            return APIError(error.message, body={"code": error.code}, retryable=error.retryable)
        return APIStatusError(
            without_login(error.message),
            status_code=status,
            request_id=request_id or None,
            body={"code": error.code},
            retryable=error.retryable,
        )
    return APIConnectionError(f"the speech engine failed with {type(error).__name__}")


def is_about_one_turn(error: Exception) -> bool:
    """Whether the next turn may well succeed, so that the session has no reason to end."""
    body = getattr(error, "body", None)
    return isinstance(body, dict) and body.get("code") in _ABOUT_ONE_TURN
