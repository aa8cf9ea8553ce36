"""A worker's load: LiveKit sends new calls to workers that have a place for their speech."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque

import psutil  # type: ignore[import-untyped,unused-ignore]
from livekit.agents import AgentServer
from livekit.agents.utils.hw import get_cpu_monitor

from orpheus_plugin.errors import OrpheusError, without_login
from orpheus_plugin.livekit.log import logger
from orpheus_plugin.remote.registry import records
from orpheus_plugin.remote.resolve import LOCAL, resolve
from orpheus_plugin.speech_engine import EngineHealth, SpeechEngine

SAMPLES = 5
"""The load is the mean of so many samples, because turns come and go faster than calls. LiveKit
takes one every half a second."""

ALL_PLACES = 0.65
"""The load while all places of the speech server are taken and no turn waits. LiveKit's threshold
is 0.7: a worker is full only if turns wait."""

LINE = 0.25
"""With so many waiting turns for each place, the load is 1.0."""


class SpeechLoad:
    """For `AgentServer(load_fnc=...)`: the busier of the speech server and this machine's
    processor, from 0 to 1.

    LiveKit's own measure is the processor's load, so it sends calls to a GPU that is full. This one
    is 1.0 while the speech server is missing or not ready: a call taken now would get no speech.
    Its first call begins to connect, which starts this machine's server if that is the one to use.

    Processor time of this machine's speech servers does not count, because their places do.
    """

    def __init__(self, engine: SpeechEngine) -> None:
        self.engine = engine
        self._speech: deque[float] = deque(maxlen=SAMPLES)
        self._processor: deque[float] = deque(maxlen=SAMPLES)
        self._begun = False

    def warm(self) -> None:
        """Start the speech server, or connect to it, and wait until it is ready. Blocking, for the
        main thread.

        Call it before `cli.run_app`, so that the worker joins when it can speak. An error is
        logged: the worker then joins with a load of 1.0, and takes calls when the server is there.
        """
        self._begun = True
        try:
            asyncio.run(self.engine.start())
        except OrpheusError as error:
            logger.error("the speech engine is not ready: %s", without_login(error.message))

    def __call__(self, worker: AgentServer) -> float:
        """Takes half a second; LiveKit calls it on a thread."""
        if not self._begun:
            threading.Thread(target=self.warm, name="orpheus-warm", daemon=True).start()
        self._processor.append(_processor_load())
        health = self.engine.health()
        self._speech.append(_speech_load(health))
        if not health.ready:
            return 1.0
        return min(1.0, max(_mean(self._speech), _mean(self._processor)))


def load_fnc(
    url: str | None = None,
    *,
    engine: SpeechEngine | None = None,
    api_key: str | None = None,
    model: str | None = None,
    device: str = "auto",
) -> SpeechLoad:
    """The load function of a worker whose jobs speak with `OrpheusTTS` and the same arguments."""
    return SpeechLoad(
        resolve(engine, url=url, api_key=api_key, model=model, device=device, default=LOCAL)
    )


def _speech_load(health: EngineHealth) -> float:
    if not health.ready:
        return 1.0
    places = max(1, health.max_turns)
    if not health.waiting:
        return ALL_PLACES * min(1.0, health.active_turns / places)
    return min(1.0, ALL_PLACES + (1 - ALL_PLACES) * health.waiting / max(1.0, LINE * places))


def _processor_load() -> float:
    """The share of this machine's processors in use, without its speech servers'."""
    monitor = get_cpu_monitor()
    began, spent = time.monotonic(), _servers_time()
    used = monitor.cpu_percent(interval=0.5)
    servers = (_servers_time() - spent) / (time.monotonic() - began) / monitor.cpu_count()
    return max(0.0, used - max(0.0, servers))


def _servers_time() -> float:
    """Seconds of processor time that this machine's speech servers have taken."""
    total = 0.0
    for server in records():
        with contextlib.suppress(psutil.Error):
            times = psutil.Process(server.pid).cpu_times()
            total += times.user + times.system
    return total


def _mean(looks: deque[float]) -> float:
    return sum(looks) / len(looks)
