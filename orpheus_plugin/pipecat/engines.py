"""Which engine a service speaks with: given, in this process, on a server, or this machine's own server."""

from __future__ import annotations

import os
import threading
from functools import partial
from typing import TYPE_CHECKING

from orpheus_plugin.engine.config import EngineConfig
from orpheus_plugin.engine.local import shared_engine
from orpheus_plugin.errors import InvalidOptions
from orpheus_plugin.turn import SpeechEngine

if TYPE_CHECKING:
    from orpheus_plugin.remote.engine import RemoteEngine

LOCAL = "local"
"""As a url: this machine's speech server, started if none runs."""

_remotes: dict[tuple[str, str | None, tuple[str, str] | None], RemoteEngine] = {}
_remotes_lock = threading.Lock()


def choose_engine(
    engine: SpeechEngine | None,
    url: str | None,
    api_key: str | None,
    model: str | None,
    device: str,
) -> SpeechEngine:
    """The engine for these arguments; equal ones give the same engine within a process."""
    url = url or None
    if engine is not None:
        if url is not None or model is not None:
            raise InvalidOptions("give either engine=, url= or model=, not several of them")
        return engine
    if url not in (None, LOCAL) and model is not None:
        raise InvalidOptions("a server speaks with its own model: give either url= or model=")
    if url is None and model is None:
        url = os.environ.get("ORPHEUS_URL") or None
    if url is None:
        return shared_engine(EngineConfig(model=model or "auto", device=device))
    if url == LOCAL:
        return _remote(LOCAL, None, (model or "auto", device))
    return _remote(url, api_key or os.environ.get("ORPHEUS_API_KEY") or None)


def _remote(url: str, key: str | None, wanted: tuple[str, str] | None = None) -> SpeechEngine:
    from orpheus_plugin.remote.engine import RemoteEngine

    with _remotes_lock:
        engine = _remotes.get((url, key, wanted))
        if engine is None or engine.closed:
            if wanted is not None:
                from orpheus_plugin.remote.autostart import Wanted, find_or_start

                engine = RemoteEngine(None, locate=partial(find_or_start, Wanted(*wanted)))
            else:
                engine = RemoteEngine(url, api_key=key)
            _remotes[url, key, wanted] = engine
        return engine
