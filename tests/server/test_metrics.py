"""/metrics, /healthz and /readyz."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from tests.support.servers import RunningTestServer


async def test_metrics_count_turns_audio_and_errors(server: RunningTestServer) -> None:
    pytest.importorskip("prometheus_client")
    async with aiohttp.ClientSession() as session:
        body = {"input": "Hello there.", "response_format": "pcm"}
        async with session.post(f"{server.url}/v1/audio/speech", json=body) as response:
            await response.read()
        async with session.post(
            f"{server.url}/v1/audio/speech", json={**body, "voice": "x"}
        ) as response:
            assert response.status == 400
        for path, field in (("/v1/audio/speech", "input"), ("/predict", "prompt")):
            async with session.post(server.url + path, json={field: "x" * 6_145}) as response:
                assert response.status == 400
        async with session.get(f"{server.url}/metrics") as response:
            text = await response.text()
    for line in (
        'orpheus_turns_total{outcome="done",protocol="openai"} 1.0',
        'orpheus_ttfa_seconds_count{protocol="openai"} 1.0',
        'orpheus_turns_total{outcome="text_too_long",protocol="openai"} 1.0',
        'orpheus_turns_total{outcome="text_too_long",protocol="baseten"} 1.0',
        "orpheus_ready 1.0",
        "orpheus_capacity 8.0",
        "orpheus_engine_restarts_total 0.0",
    ):
        assert line in text.splitlines(), line
    for name in (
        "generating",
        "decoding",
        "queued",
        "underruns",
        "tokens",
        "audio_seconds",
        "retries",
        "refused",
        "connections",
        "tasks",
    ):
        assert f"orpheus_{name}" in text


async def test_metrics_show_the_batch_and_the_margin_while_speaking(
    server: RunningTestServer,
) -> None:
    pytest.importorskip("prometheus_client")
    turn = server.service.engine.open_turn()
    turn.push_text("The quick brown fox jumps over the lazy dog. " * 20)
    async with aiohttp.ClientSession() as session, asyncio.timeout(20):
        text = ""
        while "orpheus_margin_seconds" not in text:
            async with session.get(f"{server.url}/metrics") as response:
                text = await response.text()
    assert "orpheus_engine_turns 1.0" in text.splitlines()
    await turn.cancel()


async def test_readiness_is_the_http_status(server: RunningTestServer) -> None:
    async with aiohttp.ClientSession() as session:
        for path in ("/healthz", "/readyz"):
            async with session.get(server.url + path) as response:
                assert response.status == 200
                state = await response.json()
        assert (state["model"], state["max_turns"], state["restarts"]) == ("crafted", 8, 0)
        server.service.ready = False
        async with session.get(f"{server.url}/readyz") as response:
            assert response.status == 503
        async with session.get(f"{server.url}/healthz") as response:
            assert response.status == 200
        body = {"input": "Hello."}
        async with session.post(f"{server.url}/v1/audio/speech", json=body) as response:
            assert response.status == 503
            assert response.headers["Retry-After"] == "1"
        server.service.ready = True
