"""What one server is: the engine behind it, where it listens, whom it lets in, and what clients may
cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from orpheus_plugin.engine.config import EngineConfig
from orpheus_plugin.protocol import MAX_MESSAGE_BYTES

DEFAULT_PORT = 8089


@dataclass(frozen=True, slots=True)
class Limits:
    """What clients may cost.

    Attributes:
        connections: websockets and speech requests open at once.
        turns_per_connection: turns one native connection may have open.
        message_bytes: longest websocket message or request body.
        turn_idle_s: a turn in which nothing moves for so long, text in or audio out, is ended.
        turn_total_s: longest life of a turn.
        connection_idle_s: a native connection without a turn for so long is closed.
        heartbeat_s: websockets are pinged this often; without a pong in half of it they are cut
            off.
    """

    connections: int = 512
    turns_per_connection: int = 128
    message_bytes: int = MAX_MESSAGE_BYTES
    turn_idle_s: float = 120.0
    turn_total_s: float = 1800.0
    connection_idle_s: float = 3600.0
    heartbeat_s: float = 10.0


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """What `orpheus-tts serve` was told.

    Attributes:
        engine: the engine.
        host, port: where to listen; port 0 picks a free one.
        uds: a Unix socket to listen on instead.
        api_key: what clients must send; None lets everyone in who reaches the address.
        insecure: that is meant, although others reach the address.
        origins: pages that may ask, as https://example.org; "*" is all.
        limits: what clients may cost.
        voice_map: a table of voice names of the operator's own.
        idle_exit_s: end when nobody has been connected for so long; None is never.
        drain_s: how long running turns may go on after the wish to end.
        nice: how far a model on the CPU gives way to other programs.
        mps: processes on the GPU share it through NVIDIA's MPS (see `mps`).
        replicas: engines behind this listener, each in a process of its own (see `replicas`).
        log_file: None is standard error.
        log_level: of this package's log.
        log_text: log what is spoken.
    """

    engine: EngineConfig
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    uds: Path | None = None
    api_key: str | None = field(default=None, repr=False)
    insecure: bool = False
    origins: tuple[str, ...] = ()
    limits: Limits = Limits()
    voice_map: Path | None = None
    idle_exit_s: float | None = None
    drain_s: float = 30.0
    nice: int = 0
    mps: bool = False
    replicas: int = 1
    log_file: Path | None = None
    log_level: str = "info"
    log_text: bool = False
