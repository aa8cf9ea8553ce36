"""The configuration of a server: its engine, its address, its key, and the limits for clients."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from orpheus_plugin.engine.config import EngineConfig
from orpheus_plugin.protocol import MAX_MESSAGE_BYTES

DEFAULT_PORT = 8089


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits for clients.

    Attributes:
        connections: websockets and speech requests open at once.
        turns_per_connection: turns one native connection may have open.
        message_bytes: longest websocket message or request body.
        turn_idle_s: a turn without text in or audio out for so long is ended.
        turn_total_s: longest duration of a turn.
        connection_idle_s: a native connection without a turn for so long is closed.
        heartbeat_s: seconds between pings of a websocket; without a pong in half of it the
            connection is closed.
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
    """The configuration of `orpheus-tts serve`.

    Attributes:
        engine: the engine.
        host, port: where to listen; port 0 picks a free one.
        uds: a Unix socket to listen on instead.
        api_key: the key that clients must send; None serves everyone who can reach the address.
        insecure: serve without a key although other machines can reach the address.
        origins: origins of pages that may send requests, such as https://example.org; "*" is all.
        limits: for clients.
        voice_map: a table of voice names of the operator's own.
        idle_exit_s: end when no client has been connected for so long; None is never.
        drain_s: how long running turns may go on when the server is asked to end.
        nice: niceness of the process if the model runs on the CPU.
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
