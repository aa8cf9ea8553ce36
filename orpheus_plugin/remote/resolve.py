"""Which engine an adapter uses: the same rules for Pipecat and LiveKit.

The first of these that applies:

1. `engine=`: this one. Whoever made it closes it.
2. `url=`: the server at this address, or the servers at several (commas between them), of which a
   turn goes to the one with the most room; "local" is this machine's server, "in-process" an engine
   in this process.
3. ORPHEUS_URL, which takes the same values, unless `model=` or `device=` is given.
4. The adapter's own default: "in-process" for Pipecat; "local" for LiveKit, which runs each job in
   a process of its own.

This machine's server is the one that runs (`orpheus-tts serve`); if none runs, one is started.
"""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import dataclass
from functools import partial

from orpheus_plugin.errors import InvalidOptions
from orpheus_plugin.remote.autostart import KEY_VARIABLE, URL_VARIABLE, Wanted, find_or_start
from orpheus_plugin.remote.engine import RemoteEngine
from orpheus_plugin.remote.several import addresses
from orpheus_plugin.speech_engine import SpeechEngine

logger = logging.getLogger(__name__)

LOCAL = "local"
"""As a url: this machine's server."""

IN_PROCESS = "in-process"
"""As a url: an engine in this process, which all adapters with the same model and device share."""

CONNECT_S = 3.0
"""Seconds a turn waits for a server that was there to come back. Then it fails, and the framework
tries again, or uses another service. A server that is started here may take as long as its model
needs."""


@dataclass(slots=True)
class _Connected:
    engine: RemoteEngine
    users: int = 0


_Key = tuple[str, str | None, str, str, float | None]

_connected: dict[_Key, _Connected] = {}
_lock = threading.Lock()


def resolve(
    engine: SpeechEngine | None = None,
    *,
    url: str | None = None,
    api_key: str | None = None,
    model: str | None = None,
    device: str = "auto",
    resume_within_s: float | None = None,
    default: str = IN_PROCESS,
) -> SpeechEngine:
    """The engine for these arguments, not yet started. Equal arguments give the same engine within
    a process.

    Blocking: it may look for a model's files. It loads nothing.

    Args:
        engine, url: see above.
        api_key: the key of the server at `url`; by default ORPHEUS_API_KEY. This machine's server
            needs none.
        model: a known model, a hub repository or a directory; None or "auto" is any model of a
            running server, else Orpheus 3B with an NVIDIA GPU, else the bundled voice.
        device: "auto", "cpu", "cuda" or "cuda:N".
        resume_within_s: see `RemoteEngine`.
        default: the adapter's own: "local" or "in-process".

    Raises:
        InvalidOptions: more than one of `engine`, an address and `model` or `device` is given.
        ValueError: `url` is not an address.
        ModelNotFound, BadCheckpoint: an engine of this process does not find its files.
    """
    model = None if model == "auto" else model
    chosen = model is not None or device != "auto"
    if engine is not None:
        if url or chosen:
            raise InvalidOptions(
                "give engine= alone: an engine has its address, model and device already"
            )
        return engine
    place = url or _from_environment(chosen) or default
    if place == IN_PROCESS:
        from orpheus_plugin.engine.config import EngineConfig
        from orpheus_plugin.engine.local import shared_engine

        return shared_engine(EngineConfig(model=model or "auto", device=device))
    if place == LOCAL:
        return _connect((LOCAL, None, model or "auto", device, resume_within_s))
    if chosen:
        raise InvalidOptions(
            "a server has its own model and device: give url= alone, or model= and device= for"
            " this machine's server"
        )
    if {LOCAL, IN_PROCESS} & set(addresses(place)):
        raise InvalidOptions(f"{LOCAL!r} and {IN_PROCESS!r} cannot be part of a list of addresses")
    key = api_key or os.environ.get(KEY_VARIABLE) or None
    return _connect((place, key, "auto", "auto", resume_within_s))


async def release(engine: SpeechEngine) -> None:
    """A user of an engine from `resolve` does not need it any more. After the last user its
    connection is closed.

    Engines given with `engine=` and engines of this process stay open.
    """
    with _lock:
        for key, connected in _connected.items():
            if connected.engine is engine:
                connected.users -= 1
                if connected.users:
                    return
                del _connected[key]
                break
        else:
            return
    await connected.engine.aclose()


def _from_environment(chosen: bool) -> str | None:
    url = os.environ.get(URL_VARIABLE) or None
    if url is not None and chosen:
        logger.warning("%s is not used, because model= or device= is given", URL_VARIABLE)
        return None
    return url


def _connect(key: _Key) -> RemoteEngine:
    url, api_key, model, device, resume_within_s = key
    with _lock:
        connected = _connected.get(key)
        if connected is None or connected.engine.closed:
            locate = None
            if url == LOCAL:
                locate = partial(find_or_start, Wanted(model=model, device=device))
            engine = RemoteEngine(
                None if url == LOCAL else url,
                api_key=api_key,
                connect_timeout_s=CONNECT_S,
                resume_within_s=resume_within_s,
                locate=locate,
            )
            connected = _connected[key] = _Connected(engine)
        connected.users += 1
        return connected.engine
