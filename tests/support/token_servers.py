"""Token servers for the tests: a small OpenAI-style one around any TokenGenerator, and the real one
of vLLM."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from orpheus_plugin.errors import InvalidOptions
from orpheus_plugin.tokens.base import SamplingParams, TokenGenerator

_VLLM_START_S = 400
VLLM_PLACES = 8
"""Requests that the real server runs at once; others wait in its line."""


@asynccontextmanager
async def openai_server(
    generator: TokenGenerator,
    stop_id: int,
    connections: set[asyncio.BaseTransport] | None = None,
) -> AsyncIterator[str]:
    """The url of a `/v1/completions` that answers as vLLM does (`return_token_ids`), from
    `generator`. `connections` get those on which an answer is being sent."""
    open_ones = set() if connections is None else connections

    async def models(request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "orpheus"}]})

    async def completions(request: web.Request) -> web.StreamResponse:
        body: dict[str, Any] = await request.json()
        sampling = SamplingParams(
            temperature=body["temperature"],
            top_p=body["top_p"],
            repetition_penalty=body["repetition_penalty"],
            max_tokens=body["max_tokens"],
            seed=body.get("seed"),
        )
        try:
            stream = generator.generate(
                body["prompt"], sampling, f"served-{request.headers['X-Request-Id']}"
            )
        except InvalidOptions as error:
            return web.json_response({"error": {"message": str(error)}}, status=400)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        assert request.transport is not None
        transport = request.transport
        open_ones.add(transport)
        try:
            async with aclosing(stream) as chunks:  # type: ignore[type-var]  # generators have it
                async for chunk in chunks:
                    ids = list(chunk.ids) + [stop_id] * (chunk.finish_reason == "stop")
                    choice = {"text": "", "token_ids": ids, "finish_reason": chunk.finish_reason}
                    event = json.dumps({"choices": [choice]})
                    await response.write(f"data: {event}\n\n".encode())
        finally:
            open_ones.discard(transport)
        await response.write(b"data: [DONE]\n\n")
        return response

    app = web.Application()
    app.router.add_get("/v1/models", models)
    app.router.add_post("/v1/completions", completions)
    async with TestServer(app) as server:
        yield str(server.make_url("/"))


@asynccontextmanager
async def vllm_server(model_dir: Path, *arguments: str) -> AsyncIterator[str]:
    """The url of a real vLLM server process on this machine's CPU, ready to answer."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "vllm.entrypoints.openai.api_server",
            "--model", str(model_dir), "--served-model-name", "orpheus",
            "--host", "127.0.0.1", "--port", str(port),
            "--max-model-len", "2048", "--max-num-seqs", str(VLLM_PLACES), "--enforce-eager",
            "--kv-cache-memory-bytes", str(256 << 20), "--generation-config", "vllm",
            # vLLM's choice for CPUs has a second process, for which the first one waits in a loop:
            # where both cores are taken, an answer then comes as a whole, after all its ids.
            "--distributed-executor-backend", "vllm.v1.executor.uniproc_executor.UniProcExecutor",
            *arguments,
            env=os.environ | {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1"},
            stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
        url = f"http://127.0.0.1:{port}"
        try:
            async with asyncio.timeout(_VLLM_START_S), aiohttp.ClientSession() as session:
                while not await _answers(session, f"{url}/health"):
                    if process.returncode is not None:
                        log.seek(0)
                        raise RuntimeError(f"vLLM did not start:\n{log.read()[-4000:].decode()}")
                    await asyncio.sleep(0.5)
            yield url
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)  # its engine processes with it
                await process.wait()


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url) as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False
