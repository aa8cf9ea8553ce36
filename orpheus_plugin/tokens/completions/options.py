"""How token servers are used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class CompletionsOptions:
    """Options of CompletionsGenerator.

    Attributes:
        model: the model's name on the server; None takes the first that the server lists.
        prompt: "ids" or "text"; "auto" is ids, and text for a server that refuses ids.
        stream_interval: ids per event after the first, where the server supports it (vLLM). A frame
            of 7 ids gives audio after ids 3, 4, 6 and 7, so 1 and 3 add the least delay; higher
            values cost less on both sides.
        connect_timeout_s: seconds to open a connection.
        silence_timeout_s: seconds between two parts of an answer, also before the first.
        health_interval_s: seconds between two health checks of each server.
        priorities: send each request's priority. For servers that schedule by it (vLLM started with
            `--scheduling-policy priority`); others may refuse the field.
        extra_body: more fields of each request.
    """

    model: str | None = None
    prompt: Literal["auto", "ids", "text"] = "auto"
    stream_interval: int = 3
    connect_timeout_s: float = 5.0
    silence_timeout_s: float = 30.0
    health_interval_s: float = 5.0
    priorities: bool = False
    extra_body: Mapping[str, Any] = field(default_factory=dict, hash=False)
