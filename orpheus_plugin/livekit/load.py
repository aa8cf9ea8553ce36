"""A worker's load, so that LiveKit sends new calls where there is still a voice free for them."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Any
from urllib.parse import SplitResult, urlsplit

from livekit.agents import AgentServer
from livekit.agents.utils.hw import get_cpu_monitor

from orpheus_plugin import protocol

ANSWER_S = 2.0
"""Seconds the server may take to tell how busy it is."""

SAMPLES = 5
"""The load is the mean of so many looks; LiveKit looks every few seconds. Turns come and go faster than calls."""


def load_fnc(url: str | None = None) -> Callable[[AgentServer], float]:
    """For `AgentServer(load_fnc=load_fnc())`: the busier of the speech server and this machine's processor, 0 to 1.

    LiveKit's own measure sees only the processor, and so goes on sending calls to a GPU that is full.

    Args:
        url: of the speech server; by default ORPHEUS_URL, else whichever server runs on this machine. While none runs
            there (the first call starts one) the processor alone counts. A server named by `url` or ORPHEUS_URL that
            does not answer counts as full: calls taken now would be mute.
    """
    recent: deque[float] = deque(maxlen=SAMPLES)

    def load(worker: AgentServer) -> float:
        recent.append(_speech_load(url or os.environ.get("ORPHEUS_URL") or None))
        speech = sum(recent) / len(recent)
        processor: float = get_cpu_monitor().cpu_percent(interval=0.5)
        return min(1.0, max(speech, processor))

    return load


def _speech_load(url: str | None) -> float:
    if url is not None:
        load = _ask(url)
        return 1.0 if load is None else load
    from orpheus_plugin.remote.registry import records

    loads = [load for server in records() if (load := _ask(server.url)) is not None]
    return min(loads, default=0.0)


def _ask(url: str) -> float | None:
    """The share of a server's turns that are speaking; 1.0 while it takes none, None if it does not answer."""
    try:
        state = _get(url, "/healthz")
        if not state["ready"]:
            return 1.0
        return min(1.0, float(state["active_turns"]) / max(1, int(state["max_turns"])))
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return None


def _get(url: str, path: str) -> dict[str, Any]:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    connection = _connection(parts)
    prefix = "" if parts.scheme == "unix" else parts.path.rstrip("/").removesuffix(protocol.PATH)
    try:
        connection.request("GET", prefix + path)
        answer: dict[str, Any] = json.loads(connection.getresponse().read(1_000_000))
        return answer
    finally:
        connection.close()


def _connection(parts: SplitResult) -> http.client.HTTPConnection:
    if parts.scheme == "unix":
        connection = http.client.HTTPConnection("localhost", timeout=ANSWER_S)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(ANSWER_S)
        connection.sock.connect(parts.path)
        return connection
    if parts.scheme in ("https", "wss"):
        return http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=ANSWER_S)
    return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=ANSWER_S)
