"""Several speech servers as one: addresses, choice of a server, sums of their health and load."""

from __future__ import annotations

import random
from dataclasses import replace

from orpheus_plugin.errors import ConnectionFailed, OrpheusError
from orpheus_plugin.remote.connection import Connection
from orpheus_plugin.speech_engine import EngineHealth


def addresses(url: str) -> tuple[str, ...]:
    """The addresses of a list with commas or spaces between them."""
    return tuple(dict.fromkeys(url.replace(",", " ").split())) or ("",)


def room(connection: Connection) -> tuple[bool, int, float]:
    """A sort key: greater for a server with more free places. It counts turns that were sent since
    the server's last report.

    Equal servers are chosen at random: else clients that begin together would all choose one.
    """
    health = connection.health
    taken = max(health.active_turns + health.waiting, connection.turns)
    return health.ready, health.max_turns - taken, random.random()


def one_error(errors: list[OrpheusError]) -> OrpheusError:
    """One error with the messages of all; retryable if any of them is."""
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
    """The sum, of at least one server."""
    best = next((one for one in health if one.ready), health[0])
    return replace(
        best,
        active_turns=sum(one.active_turns for one in health),
        max_turns=sum(one.max_turns for one in health),
        restarts=sum(one.restarts for one in health),
        waiting=sum(one.waiting for one in health),
    )
