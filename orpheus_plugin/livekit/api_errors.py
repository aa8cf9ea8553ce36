"""This package's errors as LiveKit's: by their kind it retries, falls back or gives up."""

from __future__ import annotations

from livekit.agents import APIConnectionError, APIError, APIStatusError, APITimeoutError

from orpheus_plugin.errors import ConnectionFailed, ErrorKind, OrpheusError, without_login

_ABOUT_ONE_TURN = {"text_too_long", "at_capacity", "generation_failed", "timed_out"}


def to_api_error(error: Exception, *, request_id: str = "") -> APIError:
    """The APIError for `error`. Raise it `from None`: a cause may contain headers or addresses with
    keys.

    An APIStatusError's `body` is `{"code": ...}` with the stable code of the original error.
    """
    if isinstance(error, APIError):
        return error
    if isinstance(error, TimeoutError):
        return APITimeoutError("the speech engine did not answer in time")
    if isinstance(error, OrpheusError) and error.kind is ErrorKind.CONNECTION:
        # LiveKit should use another TTS at once, if there is one.
        reached = not (isinstance(error, ConnectionFailed) and error.never_reached)
        return APIConnectionError(
            without_login(error.message), retryable=error.retryable and reached
        )
    if isinstance(error, OrpheusError):
        return APIStatusError(
            without_login(error.message),
            status_code=error.http_status,
            request_id=request_id or None,
            body={"code": error.code},
            retryable=error.retryable,
        )
    return APIConnectionError(f"the speech engine failed with {type(error).__name__}")


def is_about_one_turn(error: Exception) -> bool:
    """Whether the next turn may succeed, so that the session need not end."""
    body = getattr(error, "body", None)
    return isinstance(body, dict) and body.get("code") in _ABOUT_ONE_TURN
