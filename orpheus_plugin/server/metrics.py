"""Prometheus metrics. Without prometheus-client the server runs, and `/metrics` says what is
missing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orpheus_plugin.events import TurnStats
from orpheus_plugin.speech_engine import EngineHealth, EngineLoad

_TTFA_BUCKETS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
_RTFX_BUCKETS = (0.5, 0.8, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a server now.

    Attributes:
        ready: turns are taken.
        turns: turns open, by protocol.
        connections: clients connected.
        health, load: the engine's.
    """

    ready: bool
    turns: Mapping[str, int]
    connections: int
    health: EngineHealth
    load: EngineLoad


class Metrics:
    """Counters and histograms, in a registry of its own, so that several servers in one process do
    not mix.

    Args:
        now: gives the state when the metrics are read.
    """

    def __init__(self, now: Callable[[], Snapshot]) -> None:
        try:
            import prometheus_client as prometheus
        except ImportError:
            self._registry: Any = None
            return
        self._registry = registry = prometheus.CollectorRegistry()
        self._turns = prometheus.Counter(
            "orpheus_turns",
            "Turns that ended, by outcome: done, cancelled, or an error's code",
            ("protocol", "outcome"),
            registry=registry,
        )
        self._refused = prometheus.Counter(
            "orpheus_refused",
            "Turns refused, by the error's code",
            ("protocol", "code"),
            registry=registry,
        )
        self._ttfa = prometheus.Histogram(
            "orpheus_ttfa_seconds",
            "First text to first audio, inside the server",
            ("protocol",),
            buckets=_TTFA_BUCKETS,
            registry=registry,
        )
        self._rtfx = prometheus.Histogram(
            "orpheus_rtfx",
            "Seconds of audio per second of work, per finished turn; below 1 there are underruns",
            buckets=_RTFX_BUCKETS,
            registry=registry,
        )
        self._underruns = prometheus.Counter(
            "orpheus_underruns",
            "Gaps of 20 ms and more, although the text was there, for a listener who plays audio as"
            " the engine makes it; one with a buffer hears fewer",
            registry=registry,
        )
        self._tokens = prometheus.Counter(
            "orpheus_tokens", "Audio tokens generated for finished turns", registry=registry
        )
        self._audio = prometheus.Counter(
            "orpheus_audio_seconds", "Seconds of audio delivered", registry=registry
        )
        self._retries = prometheus.Counter(
            "orpheus_retries", "Utterances generated again with another seed", registry=registry
        )
        self._abandoned = prometheus.Counter(
            "orpheus_abandoned_turns",
            "Turns that their task left open, freed afterwards: an error in the server",
            ("protocol",),
            registry=registry,
        )
        prometheus.ProcessCollector(registry=registry)
        registry.register(_Gauges(now))

    def refused(self, protocol: str, code: str) -> None:
        if self._registry is not None:
            self._refused.labels(protocol, code).inc()

    def abandoned(self, protocol: str) -> None:
        if self._registry is not None:
            self._abandoned.labels(protocol).inc()

    def finished(self, protocol: str, outcome: str, ttfa_s: float | None, stats: TurnStats) -> None:
        if self._registry is None:
            return
        self._turns.labels(protocol, outcome).inc()
        if ttfa_s is not None:
            self._ttfa.labels(protocol).observe(ttfa_s)
        if stats.rtfx is not None:
            self._rtfx.observe(stats.rtfx)
        self._underruns.inc(stats.underruns)
        self._tokens.inc(stats.tokens)
        self._audio.inc(stats.audio_s)
        self._retries.inc(stats.retries)

    def render(self) -> bytes | None:
        """The text exposition; None if prometheus-client is not installed."""
        if self._registry is None:
            return None
        from prometheus_client import generate_latest

        return generate_latest(self._registry)


class _Gauges:
    """The present state, read when the metrics are read."""

    def __init__(self, now: Callable[[], Snapshot]) -> None:
        self._now = now

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        now = self._now()
        health, load = now.health, now.load
        active = GaugeMetricFamily("orpheus_active_turns", "Turns open now", labels=["protocol"])
        for protocol, count in sorted(now.turns.items()):
            active.add_metric([protocol], count)
        yield active
        gauges: list[tuple[str, str, float]] = [
            ("orpheus_ready", "1 when turns are taken", now.ready),
            ("orpheus_engine_turns", "Turns the engine speaks now", health.active_turns),
            ("orpheus_capacity", "Turns it takes at once", health.max_turns),
            ("orpheus_waiting_turns", "Turns in line for a place", health.waiting),
            ("orpheus_connections", "Clients connected", now.connections),
            ("orpheus_prebuffer_seconds", "Audio a turn begins with", load.prebuffer_s),
            ("orpheus_tasks", "Tasks of the server's event loop", len(asyncio.all_tasks())),
            ("orpheus_generating", "Utterances in the token generator's batch", load.generating),
            ("orpheus_decoding", "Utterances in the codec", load.decoding),
            ("orpheus_queued", "Utterances that wait to be generated", load.queued),
            ("orpheus_cache_bytes", "What the phrase cache holds", load.cache_bytes),
        ]
        if load.margin_s is not None:
            name = "orpheus_margin_seconds"
            gauges.append((name, "Audio left to the listener who has least", load.margin_s))
        for name, text, value in gauges:
            yield GaugeMetricFamily(name, text, value=float(value))
        counters: list[tuple[str, str, float]] = [
            ("orpheus_engine_restarts", "Times a dead engine was restarted", health.restarts),
            ("orpheus_codec_steps", "Steps of the codec since its start", load.codec_steps),
            (
                "orpheus_codec_eager_steps",
                "Steps of the codec in a shape that the GPU had not captured",
                load.codec_eager_steps,
            ),
            ("orpheus_cache_hits", "Utterances from the phrase cache", load.cache_hits),
            ("orpheus_cache_misses", "Utterances that were not in it", load.cache_misses),
            ("orpheus_cached_audio_seconds", "Audio from the phrase cache", load.cached_s),
        ]
        for name, text, value in counters:
            yield CounterMetricFamily(name, text, value=float(value))
