"""Prometheus metrics. Without prometheus-client the server runs all the same and `/metrics` says what is missing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from orpheus_plugin.turn import TurnStats

if TYPE_CHECKING:
    from orpheus_plugin.server.service import SpeechService

_TTFA_BUCKETS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
_FACTOR_BUCKETS = (0.5, 0.8, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)


class Metrics:
    """What happened, in a registry of its own, so that several servers in one process do not mix."""

    def __init__(self) -> None:
        try:
            import prometheus_client as prometheus
        except ImportError:
            self._registry: Any = None
            return
        self._registry = registry = prometheus.CollectorRegistry()
        self._turns = prometheus.Counter(
            "orpheus_turns",
            "Turns that ended, by how: done, cancelled, or an error's code",
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
        self._factor = prometheus.Histogram(
            "orpheus_real_time_factor",
            "Seconds of audio per second of work, per finished turn; below 1 a listener hears gaps",
            buckets=_FACTOR_BUCKETS,
            registry=registry,
        )
        self._underruns = prometheus.Counter(
            "orpheus_underruns",
            "Times a listener ran dry although the text was there",
            registry=registry,
        )
        self._tokens = prometheus.Counter(
            "orpheus_tokens", "Audio tokens generated for finished turns", registry=registry
        )
        self._audio = prometheus.Counter(
            "orpheus_audio_seconds", "Seconds of audio delivered", registry=registry
        )
        self._retries = prometheus.Counter(
            "orpheus_retries", "Utterances begun anew with another seed", registry=registry
        )
        prometheus.ProcessCollector(registry=registry)

    def watch(self, service: SpeechService) -> None:
        """Read the service's gauges whenever the metrics are asked for."""
        if self._registry is not None:
            self._registry.register(_Gauges(service))

    def refused(self, protocol: str, code: str) -> None:
        if self._registry is not None:
            self._refused.labels(protocol, code).inc()

    def finished(self, protocol: str, outcome: str, ttfa_s: float | None, stats: TurnStats) -> None:
        if self._registry is None:
            return
        self._turns.labels(protocol, outcome).inc()
        if ttfa_s is not None:
            self._ttfa.labels(protocol).observe(ttfa_s)
        if stats.rtfx is not None:
            self._factor.observe(stats.rtfx)
        self._underruns.inc(stats.underruns)
        self._tokens.inc(stats.tokens)
        self._audio.inc(stats.audio_s)
        self._retries.inc(stats.retries)

    def render(self) -> bytes | None:
        """The text exposition; None where prometheus-client is not installed."""
        if self._registry is None:
            return None
        from prometheus_client import generate_latest

        return generate_latest(self._registry)


class _Gauges:
    """The state of now, read when it is asked for."""

    def __init__(self, service: SpeechService) -> None:
        self._service = service

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        service = self._service
        health = service.engine.health()
        active = GaugeMetricFamily("orpheus_active_turns", "Turns open now", labels=["protocol"])
        for protocol, count in sorted(service.turns_by_protocol().items()):
            active.add_metric([protocol], count)
        yield active
        gauges: Iterable[tuple[str, str, float]] = (
            ("orpheus_ready", "1 when turns are taken", service.ready and health.ready),
            ("orpheus_engine_turns", "Turns the engine speaks now", health.active_turns),
            ("orpheus_capacity", "Turns it takes at once", health.max_turns),
            ("orpheus_connections", "Clients connected", service.connections),
            ("orpheus_cushion_seconds", "Audio a turn begins with", service.prebuffer.size_s),
            ("orpheus_tasks", "Tasks of the server's event loop", len(asyncio.all_tasks())),
        )
        for name, text, value in (*gauges, *_load(service)):
            yield GaugeMetricFamily(name, text, value=float(value))
        yield CounterMetricFamily(
            "orpheus_engine_restarts", "Times a dead engine was restarted", value=health.restarts
        )


def _load(service: SpeechService) -> Iterator[tuple[str, str, float]]:
    """What the engine is busy with."""
    now = service.engine.load()
    yield "orpheus_generating", "Utterances in the token generator's batch", now.generating
    yield "orpheus_decoding", "Utterances in the codec", now.decoding
    yield "orpheus_waiting_turns", "Turns in line for a place", now.waiting
    yield "orpheus_queued", "Utterances that wait for their time", now.queued
    if now.margin_s is not None:
        name = "orpheus_real_time_margin_seconds"
        yield name, "Audio ahead of the listener who is closest to running dry", now.margin_s
