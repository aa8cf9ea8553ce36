"""Tokens from OpenAI-style `/v1/completions` servers (vLLM, SGLang, llama.cpp and compatible ones),
over HTTP.

What a server supports is found out by its answers: vLLM gives token ids in its events
(`return_token_ids`), others give the text `<custom_token_N>`; most take the prompt as ids, some
only as text. Sampling parameters with different names are sent under every name; servers ignore
names that they do not know.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import aiohttp

from orpheus_plugin.errors import (
    AtCapacity,
    ConnectionFailed,
    EngineDied,
    GenerationFailed,
    InvalidOptions,
    OrpheusError,
)
from orpheus_plugin.tokens.adapters import index_of
from orpheus_plugin.tokens.arrivals import Arrivals
from orpheus_plugin.tokens.base import FinishReason, SamplingParams, TokenChunk
from orpheus_plugin.tokens.checks import check_sampling, checked_prompt
from orpheus_plugin.tokens.completions.options import CompletionsOptions
from orpheus_plugin.tokens.completions.parsing import (
    Choice,
    ChoiceReader,
    EventReader,
    Failure,
    error_message,
    first_choice,
)
from orpheus_plugin.tokens.completions.pool import Server, ServerPool, reason, refusal
from orpheus_plugin.tokens.vocabulary import Vocabulary

logger = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Request(Arrivals):
    """One generation. Its task adds ids, its iterator takes them."""

    request_id: str
    prompt: list[int]
    sampling: SamplingParams
    priority: int
    model: str | None = None  # an adapter's name on the servers
    begun: bool = False  # an id has come

    def put(self, ids: list[int], finish_reason: FinishReason | None) -> None:
        self.begun = self.begun or bool(ids)
        Arrivals.put(self, ids, finish_reason)


class CompletionsGenerator:
    """A TokenGenerator on one or several servers of the same model.

    A request goes to the healthy server with the fewest of our requests. Before its first id it
    goes to the next server when one refuses, is full or cannot be reached. After that a lost
    connection ends it with ConnectionFailed; requests on other servers continue. Closing the
    iterator closes the connection, which makes these servers abort.

    Args:
        urls: `http://host:port`, with or without `/v1` (or `/v1/completions`) at the end.
        vocabulary: the model's ids.
        api_key: sent as a bearer token.
        options: how the servers are used.
        adapters: names of adapters, and the model names by which the servers have them (vLLM's
            --lora-modules).
    """

    def __init__(
        self,
        urls: Iterable[str],
        vocabulary: Vocabulary,
        *,
        api_key: str | None = None,
        options: CompletionsOptions | None = None,
        adapters: Mapping[str, str] | None = None,
    ) -> None:
        self.options = options or CompletionsOptions()
        self._pool = ServerPool(urls, self.options, api_key=api_key)
        self._vocabulary = vocabulary
        self._adapters = dict(adapters or {})
        self._requests: dict[str, _Request] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def servers(self) -> list[Server]:
        return self._pool.servers

    async def start(self) -> None:
        """Ask every server for its model. Raises ConnectionFailed if none answers, InvalidOptions
        if one refuses the key."""
        await self._pool.start()

    async def aclose(self) -> None:
        """Close all connections; running requests end with EngineDied. Idempotent."""
        for request in self._requests.values():
            request.fail(EngineDied("the connection to the token servers was closed"))
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await self._pool.aclose()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def running(self) -> int:
        """Requests that were sent and have not ended."""
        return sum(not request.over for request in self._requests.values())

    @property
    def failure(self) -> EngineDied | None:
        """Always None: servers come and go, and each request has an error of its own."""
        return None

    # ---- requests

    def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingParams,
        request_id: str,
        *,
        priority: int = 0,
        adapter: str | None = None,
    ) -> AsyncGenerator[TokenChunk, None]:
        """See TokenGenerator. The request is checked here and sent at the first step of the
        iterator.

        Besides EngineDied after `aclose`, raises ConnectionFailed when a server is lost, AtCapacity
        when all are full, InvalidOptions with the server's words when it refuses the request, and
        GenerationFailed when the server answers with text instead of audio tokens.
        """
        self._pool.check_open()
        prompt = checked_prompt(prompt_ids, self._vocabulary.size)
        check_sampling(sampling)
        index_of(adapter, self._adapters)
        model = None if adapter is None else self._adapters[adapter]
        return self._stream(_Request(request_id, prompt, sampling, priority, model))

    async def _stream(self, request: _Request) -> AsyncGenerator[TokenChunk, None]:
        """The request's ids. A task of its own reads them, so that a slow consumer does not slow
        the server."""
        if request.request_id in self._requests:
            raise InvalidOptions(f"request {request.request_id!r} is already running")
        self._requests[request.request_id] = request
        task = asyncio.create_task(self._run(request), name=f"orpheus-{request.request_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            while True:
                chunk = await request.take()
                yield chunk
                if chunk.finish_reason is not None:
                    return
        finally:
            del self._requests[request.request_id]
            if request.finish_reason is None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _run(self, request: _Request) -> None:
        """Try the servers one after the other, until one gives an id."""
        failure: OrpheusError | None = None
        try:
            for server in self._pool.in_order():
                server.running += 1
                try:
                    await self._ask(server, request)
                    return
                except (AtCapacity, ConnectionFailed) as error:
                    server.healthy = server.healthy and isinstance(error, AtCapacity)
                    if failure is None or request.begun or isinstance(error, AtCapacity):
                        failure = error
                    if request.begun:
                        break
                finally:
                    server.running -= 1
        except OrpheusError as error:
            failure = error
        except Exception as error:  # an error in this module must not leave the consumer waiting
            failure = GenerationFailed(f"internal error while reading tokens: {error!r}")
            failure.__cause__ = error
        request.fail(failure)

    async def _ask(self, server: Server, request: _Request) -> None:
        """Run the request on one server, to its end."""
        try:
            async with contextlib.AsyncExitStack() as stack:
                await self._read(server, await self._post(server, stack, request), request)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ConnectionFailed(f"{server.base}: {reason(error)}") from error

    async def _post(
        self, server: Server, stack: contextlib.AsyncExitStack, request: _Request
    ) -> aiohttp.ClientResponse:
        """The answer to the request, with status 200. `stack` closes it."""
        as_text = self.options.prompt == "text" or (
            self.options.prompt == "auto" and server.takes_ids is False
        )
        while True:
            response = await self._pool.session.post(
                f"{server.base}/completions",
                json=self._body(server, request, as_text),
                headers={"X-Request-Id": request.request_id},
            )
            # Closes the connection unless the answer was read to its end: that aborts the request.
            stack.callback(response.close)
            if response.status == 200:
                if self.options.prompt == "auto":
                    server.takes_ids = not as_text
                return response
            said = error_message(await response.read())
            may_not_take_ids = (
                response.status in (400, 422)
                and not as_text
                and self.options.prompt == "auto"
                and server.takes_ids is None
            )
            if not may_not_take_ids:
                raise refusal(server, response.status, said)
            logger.info("%s refuses a prompt of ids (%s), trying text", server.base, said)
            as_text = True

    def _body(self, server: Server, request: _Request, as_text: bool) -> dict[str, Any]:
        vocabulary, sampling = self._vocabulary, request.sampling
        body: dict[str, Any] = {
            "model": request.model or server.model or "orpheus",
            "prompt": vocabulary.decode(request.prompt) if as_text else request.prompt,
            "stream": True,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "repetition_penalty": sampling.repetition_penalty,  # vLLM, SGLang
            "repeat_penalty": sampling.repetition_penalty,  # llama.cpp, which...
            "repeat_last_n": -1,  # ...otherwise reads 64 ids only
            "stop_token_ids": [vocabulary.end_of_speech],
            "return_token_ids": True,
            "stream_interval": self.options.stream_interval,
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
            "add_special_tokens": False,
        }
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        if self.options.priorities:
            body["priority"] = request.priority
        return body | dict(self.options.extra_body)

    async def _read(
        self, server: Server, response: aiohttp.ClientResponse, request: _Request
    ) -> None:
        """Pass on the ids of an answer, up to its end or the stop id."""
        stop = self._vocabulary.end_of_speech
        choices = ChoiceReader(self._vocabulary)
        finish_reason: str | None = None
        async for events in _events(server, response):
            ids: list[int] = []
            for event in events:
                if event == "[DONE]":
                    finish_reason = finish_reason or "stop"
                    break
                choice = _choice(server, event)
                ids += choices.push(choice)
                finish_reason = choice.finish_reason or finish_reason
            if choices.is_prose or ((finish_reason or stop in ids) and choices.prose):
                raise _not_orpheus(server, choices)
            if stop in ids:
                request.put(ids[: ids.index(stop)], "stop")
                return
            if finish_reason is not None:
                request.put(ids, _known(server, finish_reason))
                with contextlib.suppress(TimeoutError, aiohttp.ClientError):
                    async with asyncio.timeout(0.25):
                        await response.read()  # to the end, so that the connection is used again
                return
            if ids:
                request.put(ids, None)
        raise ConnectionFailed(f"{server.base} ended an answer in the middle")


async def _events(server: Server, response: aiohttp.ClientResponse) -> AsyncIterator[list[str]]:
    """The data of the answer's events, in lists of those that arrive together.

    A server that does not stream sends one JSON object, which is its only event. Raises
    GenerationFailed for a web page.
    """
    if response.content_type == "text/html":
        page = " ".join((await response.text(errors="replace")).split())[:60]
        raise GenerationFailed(
            f"{server.base} answers with a web page ({page!r}), not a completion: check the url,"
            " and a proxy or login page before the server"
        )
    if response.content_type == "application/json":
        yield [(await response.read()).decode("utf-8", "replace"), "[DONE]"]
        return
    events = EventReader()
    async for data in response.content.iter_any():
        yield events.push(data)


def _choice(server: Server, event: str) -> Choice:
    try:
        choice = first_choice(event)
    except ValueError as error:
        raise GenerationFailed(f"{server.base} sent no completion: {event[:200]!r}") from error
    if isinstance(choice, Failure):
        raise refusal(server, choice.status, choice.message)
    return choice


def _not_orpheus(server: Server, choices: ChoiceReader) -> GenerationFailed:
    return GenerationFailed(
        f"{server.base} does not answer as an Orpheus server: it sends {choices.prose} instead of"
        " audio tokens (<custom_token_N>). Check that the model it serves"
        f" ({server.model or 'unknown'}) is an Orpheus model, that /v1/completions gets the prompt"
        " as it is, without a chat template, and that the server returns token ids"
        " (return_token_ids) or shows special tokens in its text"
    )


def _known(server: Server, finish_reason: str) -> FinishReason:
    if finish_reason in ("stop", "length", "abort"):
        return cast("FinishReason", finish_reason)
    raise GenerationFailed(f"{server.base} ended the request with {finish_reason!r}")
