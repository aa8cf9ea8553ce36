"""Access: keys, origins, host names, addresses to listen on, and how much a client may send."""

from __future__ import annotations

import asyncio
import logging
import sys
from dataclasses import replace

import aiohttp
import msgpack
import pytest

from orpheus_plugin import protocol
from orpheus_plugin.errors import InvalidOptions
from orpheus_plugin.server.config import Limits
from orpheus_plugin.server.logs import LineFormatter
from orpheus_plugin.server.security import check_bind, is_loopback
from orpheus_plugin.speech_engine import SpeechEngine
from tests.support.servers import RunningTestServer, serving

ENDPOINTS = [
    ("GET", protocol.PATH),
    ("GET", "/api/tts_streaming"),
    ("GET", "/v1/websocket"),
    ("GET", "/v1/audio/speech/stream"),
    ("POST", "/v1/audio/speech"),
    ("POST", "/openai/deployments/tts-1/audio/speech"),
    ("POST", "/predict"),
    ("GET", "/v1/models"),
    ("GET", "/v1/audio/voices"),
    ("GET", "/metrics"),
]


@pytest.mark.parametrize(("method", "path"), ENDPOINTS)
async def test_every_endpoint_requires_the_key(
    engine: SpeechEngine, method: str, path: str
) -> None:
    async with serving(engine, api_key="secret") as server, aiohttp.ClientSession() as session:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "secret"},
            {"kyutai-api-key": "public_token"},
            {"x-api-key": ""},
        ):
            async with session.request(method, server.url + path, headers=headers) as response:
                assert response.status == 401
        for headers in (
            {"Authorization": "Bearer secret"},
            {"Authorization": "Api-Key secret"},
            {"kyutai-api-key": "secret"},
            {"x-api-key": "secret"},
            {"api-key": "secret"},
        ):
            async with session.request(method, server.url + path, headers=headers) as response:
                assert response.status != 401


async def test_health_and_the_page_need_no_key(engine: SpeechEngine) -> None:
    async with serving(engine, api_key="secret") as server, aiohttp.ClientSession() as session:
        for path in ("/", "/health", "/healthz", "/readyz", "/api/build_info"):
            async with session.get(server.url + path) as response:
                assert response.status == 200


async def test_without_the_key_the_engines_error_is_not_shown(
    engine: SpeechEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = replace(engine.health(), ready=False, error="cannot read /home/me/model")
    monkeypatch.setattr(engine, "health", lambda: failed)
    for key, told in ((None, True), ("secret", False)):
        async with serving(engine, api_key=key) as server, aiohttp.ClientSession() as session:
            for path in ("/healthz", "/readyz"):
                async with session.get(server.url + path) as response:
                    assert ("/home/me" in await response.text()) is told


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://[::1", "http://127.0.0.1:1"]
)
async def test_pages_of_other_origins_are_refused(server: RunningTestServer, origin: str) -> None:
    async with aiohttp.ClientSession(headers={"Origin": origin}) as session:
        for method, path in ENDPOINTS:
            async with session.request(method, server.url + path) as response:
                assert response.status == 403


async def test_the_servers_own_page_and_named_origins_are_accepted(engine: SpeechEngine) -> None:
    async with (
        serving(engine, origins=["https://friend.example"]) as server,
        aiohttp.ClientSession() as session,
    ):
        for origin in (server.url, "https://friend.example"):
            async with session.get(
                f"{server.url}/v1/models", headers={"Origin": origin}
            ) as response:
                assert response.status == 200


async def test_a_rebound_host_name_is_refused(server: RunningTestServer) -> None:
    async with aiohttp.ClientSession() as session:
        for host, status in (
            ("evil.example", 403),
            (f"evil.example:{server.port}", 403),
            ("localhost", 200),
            (f"127.0.0.1:{server.port}", 200),
            ("[::1]:80", 200),
        ):
            async with session.get(f"{server.url}/v1/models", headers={"Host": host}) as response:
                assert response.status == status


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org", ""])
def test_listening_on_other_addresses_needs_a_key_or_insecure(host: str) -> None:
    with pytest.raises(InvalidOptions, match="--api-key"):
        check_bind(host, api_key=None, insecure=False)
    check_bind(host, api_key="k", insecure=False)
    check_bind(host, api_key=None, insecure=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "[::1]"])
def test_loopback_needs_no_key(host: str) -> None:
    assert is_loopback(host)
    check_bind(host, api_key=None, insecure=False)


async def test_more_connections_than_allowed_are_refused(engine: SpeechEngine) -> None:
    async with (
        serving(engine, limits=Limits(connections=2)) as server,
        aiohttp.ClientSession() as session,
        session.ws_connect(server.ws_url + protocol.PATH),
        session.ws_connect(server.ws_url + protocol.PATH),
    ):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
            await session.ws_connect(server.ws_url + protocol.PATH)
        assert refusal.value.status == 429
        async with session.get(f"{server.url}/healthz") as response:
            assert (await response.json())["connections"] == 2


async def test_more_turns_than_a_connection_may_have_are_refused(engine: SpeechEngine) -> None:
    async with (
        serving(engine, limits=Limits(turns_per_connection=1)) as server,
        aiohttp.ClientSession() as session,
        session.ws_connect(server.ws_url + protocol.PATH) as ws,
    ):
        for turn_id in "ab":
            await ws.send_bytes(protocol.pack({"type": "open", "id": turn_id}))
        codes: set[tuple[str, str | None]] = set()
        async with asyncio.timeout(5):
            while len(codes) < 2:
                message = msgpack.unpackb((await ws.receive()).data)
                if message["type"] in ("opened", "error"):
                    codes.add((message["id"], message.get("code")))
        assert codes == {("a", None), ("b", "at_capacity")}


def test_input_cannot_break_a_log_line() -> None:
    record = logging.LogRecord(
        "x", logging.INFO, "f", 1, "said %s", ("a\nINFO forged \x1b[31m\u2028",), None
    )
    record.path = "/x\n\r\x00\u0085"
    line = LineFormatter().format(record)
    assert len(line.splitlines()) == 1
    assert "\x1b" not in line


def test_the_text_of_an_exception_cannot_forge_a_log_line() -> None:
    try:
        raise ValueError("a\n2026-01-01T00:00:00+0000 INFO forged\r\x1b[31m")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "failed", (), sys.exc_info())
    first, *others = LineFormatter().format(record).splitlines()
    assert "failed" in first
    assert any("forged" in line for line in others)
    assert all(line.startswith("  | ") for line in others)
    assert not any("\x1b" in line for line in others)
