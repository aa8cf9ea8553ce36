"""Several speech servers as one: their addresses, which of them a turn goes to, and what they say
together."""

from __future__ import annotations

import random
from dataclasses import replace

from orpheus_plugin.errors import ConnectionFailed, OrpheusError
from orpheus_plugin.remote.connection import Connection
from orpheus_plugin.turn import EngineHealth, EngineLoad


def addresses(url: str) -> tuple[str, ...]:
    """The addresses of a list, which commas or spaces separate."""
    return tuple(dict.fromkeys(url.replace(",", " ").split())) or ("",)


def room(connection: Connection) -> tuple[bool, int, float]:
    """How well a new turn would do there: by the server's word, and by what went there since.

    Of equals any: clients that begin together would otherwise all choose the same one.
    """
    health = connection.health
    taken = max(health.active_turns + health.waiting, connection.turns)
    return health.ready, health.max_turns - taken, random.random()


def one_error(errors: list[OrpheusError]) -> OrpheusError:
    """One that says what all of them say. It may be tried again if that holds for any of them."""
    if len(errors) == 1:
        return errors[0]
    kind = next((error for error in errors if error.retryable), errors[0])
    told = type(kind)("no speech server: " + "; ".join(error.message for error in errors))
    if isinstance(told, ConnectionFailed):
        told.never_reached = all(
            isinstance(error, ConnectionFailed) and error.never_reached for error in errors
        )
    return told


def added_health(health: list[EngineHealth]) -> EngineHealth:
    """Of at least one server."""
    best = next((one for one in health if one.ready), health[0])
    return replace(
        best,
        active_turns=sum(one.active_turns for one in health),
        max_turns=sum(one.max_turns for one in health),
        restarts=sum(one.restarts for one in health),
        waiting=sum(one.waiting for one in health),
    )


def added_load(loads: list[EngineLoad]) -> EngineLoad:
    margins = [load.margin_s for load in loads if load.margin_s is not None]
    return EngineLoad(
        generating=sum(load.generating for load in loads),
        decoding=sum(load.decoding for load in loads),
        queued=sum(load.queued for load in loads),
        margin_s=min(margins, default=None),
        waiting=sum(load.waiting for load in loads),
        prebuffer_s=max((load.prebuffer_s for load in loads), default=0.0),
        orphaned=sum(load.orphaned for load in loads),
    )
