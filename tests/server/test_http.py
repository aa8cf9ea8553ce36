"""Wrong HTTP requests: every answer is JSON, has no versions in its headers, and costs little."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import time

import aiohttp
import pytest
from aiohttp.web_protocol import RequestHandler

from orpheus_plugin.server.config import Limits
from orpheus_plugin.server.http import READ_BYTES
from orpheus_plugin.server.json_api import REFUSALS
from orpheus_plugin.speech_engine import SpeechEngine
from tests.support.servers import RunningTestServer, serving

SPEECH = "/v1/audio/speech"


async def exchange(port: int, sent: bytes, seconds: float = 5) -> bytes:
    """What comes back until the server closes, or is silent for so long."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    seen = b""
    try:
        async with asyncio.timeout(seconds):
            while data := await reader.read(65_536):
                seen += data
    except TimeoutError:
        pass
    writer.close()
    return seen


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", SPEECH, 405, "method_not_allowed"),
        ("POST", "/v1/turns", 405, "method_not_allowed"),
        ("GET", "/v1/turns", 400, "http_error"),
    ],
)
async def test_every_error_is_json(
    server: RunningTestServer, method: str, path: str, status: int, code: str
) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, server.url + path) as response,
    ):
        assert response.status == status
        error = (await response.json())["error"]
        assert error["code"] == code
        assert error["message"]
        assert response.headers["Server"] == "orpheus_plugin"


async def test_a_body_that_is_too_large_is_an_error_in_json(server: RunningTestServer) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(server.url + SPEECH, data=b"x" * 200_000) as response,
    ):
        assert response.status == 413
        assert (await response.json())["error"]["code"] == "too_large"


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "GZIP"])
async def test_compressed_bodies_are_refused_without_reading_them(
    server: RunningTestServer, encoding: str
) -> None:
    bomb = gzip.compress(b"0" * 50_000_000)
    loop = asyncio.get_running_loop()
    async with aiohttp.ClientSession() as session:
        held_s, began = 0.0, loop.time()

        async def watch() -> None:
            nonlocal held_s
            while True:
                before = loop.time()
                await asyncio.sleep(0)
                held_s = max(held_s, loop.time() - before)

        watching = asyncio.create_task(watch())
        async with session.post(
            server.url + SPEECH, data=bomb[:60_000], headers={"Content-Encoding": encoding}
        ) as response:
            assert response.status == 415
            assert "Content-Encoding" in (await response.json())["error"]["message"]
        watching.cancel()
        # 50 MB were never made of it: that alone would take longer.
        assert loop.time() - began < 30, held_s


@pytest.mark.parametrize("charset", ["punycode", "utf-16", "latin-1", "idna", "no-such"])
async def test_json_is_utf8(server: RunningTestServer, charset: str) -> None:
    headers = {"Content-Type": f"application/json; charset={charset}"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(server.url + SPEECH, data=b"x" * 60_000, headers=headers) as response,
    ):
        assert response.status == 415


async def test_every_name_of_utf8_is_accepted(server: RunningTestServer) -> None:
    body = json.dumps({"input": "Hi.", "response_format": "pcm"})
    async with aiohttp.ClientSession() as session:
        for kind in ("application/json", "application/json; charset=UTF-8", "text/plain"):
            async with session.post(
                server.url + SPEECH, data=body, headers={"Content-Type": kind}
            ) as response:
                assert response.status == 200


async def test_the_key_is_checked_before_the_body(engine: SpeechEngine) -> None:
    head = (
        b"POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n"
        b"Expect: 100-continue\r\n"
    )
    async with serving(engine, api_key="secret") as server:
        began = time.monotonic()
        answer = await exchange(server.port, head + b"\r\n")
        assert answer.startswith(b"HTTP/1.1 401 ")
        assert time.monotonic() - began < 4
        answer = await exchange(server.port, head + b"Authorization: Bearer secret\r\n\r\n", 0.5)
        assert answer == b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nBroken\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
    ],
)
async def test_data_that_is_not_http_is_one_log_line(
    server: RunningTestServer, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        answer = await exchange(server.port, sent)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
    assert b"aiohttp" not in answer
    assert b"Python" not in answer
    assert json.loads(body)["error"]["message"]
    lines = [record for record in caplog.records if record.name.startswith("orpheus_plugin")]
    assert [record.getMessage() for record in lines] == ["malformed request"]
    assert lines[0].exc_info is None


async def test_many_wrong_requests_close_the_connection(
    server: RunningTestServer,
) -> None:
    request = b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n"
    answer = await exchange(server.port, request * (REFUSALS + 30))
    assert answer.count(b"HTTP/1.1 404 ") == REFUSALS


async def test_connections_beyond_the_limit_are_closed(engine: SpeechEngine) -> None:
    async with serving(engine, limits=Limits(connections=1)) as server:
        idle = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(66)]
        await asyncio.sleep(0.1)
        assert (
            await exchange(server.port, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n") == b""
        )
        for _, writer in idle:
            writer.close()
        await asyncio.sleep(0.1)
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{server.url}/healthz") as response,
        ):
            assert response.status == 200


async def test_a_body_of_tiny_chunks_is_parsed_a_little_at_a_time(
    server: RunningTestServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[int] = []
    take = RequestHandler.data_received

    def counted(self: RequestHandler, data: bytes) -> None:
        parsed.append(len(data))
        take(self, data)

    monkeypatch.setattr(RequestHandler, "data_received", counted)
    head = (
        b"POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    chunks = b"1\r\n \r\n" * 50_000
    assert b" 400 " in await exchange(server.port, head + chunks + b"0\r\n\r\n")
    assert sum(parsed) >= len(chunks)
    assert max(parsed) <= READ_BYTES


async def test_requests_have_ids(server: RunningTestServer) -> None:
    async with aiohttp.ClientSession() as session:
        seen = []
        for given in ("mine-1", "", "no good\tone", "x" * 200):
            headers = {"X-Request-Id": given} if given else {}
            async with session.get(f"{server.url}/v1/models", headers=headers) as response:
                seen.append(response.headers["X-Request-Id"])
        assert seen[0] == "mine-1"
        assert len(set(seen)) == 4
        assert all(len(one) == 32 for one in seen[1:])


# ---- pages of other origins

FRIEND = "http://localhost:3000"


async def test_a_page_of_an_allowed_origin_may_send_requests_and_read_answers(
    engine: SpeechEngine,
) -> None:
    async with (
        serving(engine, api_key="secret", origins=[FRIEND]) as server,
        aiohttp.ClientSession(headers={"Origin": FRIEND}) as session,
    ):
        asks = {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type",
        }
        async with session.options(server.url + SPEECH, headers=asks) as response:
            assert response.status == 204
            assert response.headers["Access-Control-Allow-Origin"] == FRIEND
            assert "POST" in response.headers["Access-Control-Allow-Methods"]
            allowed = response.headers["Access-Control-Allow-Headers"]
            assert {"authorization", "content-type"} <= set(allowed.split(","))
        for headers, status in (({}, 401), ({"Authorization": "Bearer secret"}, 200)):
            # Its errors too, or the page could not show them.
            async with session.get(f"{server.url}/v1/models", headers=headers) as response:
                assert response.status == status
                assert response.headers["Access-Control-Allow-Origin"] == FRIEND
                assert response.headers["Vary"] == "Origin"


async def test_a_page_of_another_origin_may_not(engine: SpeechEngine) -> None:
    async with (
        serving(engine, origins=[FRIEND]) as server,
        aiohttp.ClientSession(headers={"Origin": "https://evil.example"}) as session,
    ):
        asks = {"Access-Control-Request-Method": "POST"}
        async with session.options(server.url + SPEECH, headers=asks) as response:
            assert response.status == 403
            assert "Access-Control-Allow-Origin" not in response.headers


async def test_every_origin_may_be_allowed(engine: SpeechEngine) -> None:
    async with (
        serving(engine, origins=["*"]) as server,
        aiohttp.ClientSession(headers={"Origin": "https://any.example"}) as session,
        session.get(f"{server.url}/v1/models") as response,
    ):
        assert response.headers["Access-Control-Allow-Origin"] == "https://any.example"
