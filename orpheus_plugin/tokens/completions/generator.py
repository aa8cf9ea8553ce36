"""Tokens from OpenAI-style `/v1/completions` servers (vLLM, SGLang, llama.cpp and what imitates them), over HTTP.

What a server can do is found out by using it: vLLM gives token ids in its events (`return_token_ids`), others give the
text `<custom_token_N>`; most take the prompt as ids, some only as text. SamplingParams options that not all servers know are
sent under every name in use; servers ignore those they do not know.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import re
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast
from urllib.parse import urlsplit

import aiohttp

from orpheus_plugin.errors import (
    AtCapacity,
    ConnectionFailed,
    EngineDied,
    GenerationFailed,
    InvalidOptions,
    OrpheusError,
)
from orpheus_plugin.tokens.base import FinishReason, SamplingParams, TokenChunk
from orpheus_plugin.tokens.checks import check_sampling, checked_prompt
from orpheus_plugin.tokens.completions.parsing import EventReader
from orpheus_plugin.tokens.vocabulary import Vocabulary

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CompletionsOptions:
    """How servers are used.

    Attributes:
        model: the model's name there; None takes the first that the server lists.
        prompt: "ids" or "text"; "auto" is ids, and text for a server that refuses ids.
        stream_interval: ids per event after the first, where the server can (vLLM). Frames end on events with 1 or 3;
            more is cheaper on both sides and later.
        connect_timeout_s: for a connection.
        silence_timeout_s: between two pieces of an answer, also before the first.
        health_interval_s: between two looks at each server.
        priorities: send each request's priority. For servers that schedule by it (vLLM started with
            `--scheduling-policy priority`); others may refuse the field.
        extra_body: further fields of each request.
    """

    model: str | None = None
    prompt: Literal["auto", "ids", "text"] = "auto"
    stream_interval: int = 3
    connect_timeout_s: float = 5.0
    silence_timeout_s: float = 30.0
    health_interval_s: float = 5.0
    priorities: bool = False
    extra_body: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(slots=True)
class Server:
    """One server, as far as it is known.

    Attributes:
        base: url up to and including `/v1`.
        running: requests of ours on it.
        healthy: it answered the last time it was asked.
        model: the model's name there.
        takes_ids: whether it takes prompts as ids; None until it was tried.
    """

    base: str
    running: int = 0
    healthy: bool = True
    model: str | None = None
    takes_ids: bool | None = None

    @property
    def health(self) -> str:
        return self.base.removesuffix("/v1") + "/health"


@dataclass(eq=False, slots=True)
class _Request:
    """One generation: its task fills it, its iterator empties it."""

    request_id: str
    prompt: list[int]
    sampling: SamplingParams
    priority: int
    ids: list[int] = field(default_factory=list)  # arrived and not handed on
    begun: bool = False
    finish_reason: FinishReason | None = None
    error: OrpheusError | None = None
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, ids: list[int], finish_reason: FinishReason | None) -> None:
        self.begun = self.begun or bool(ids)
        self.ids += ids
        self.finish_reason = finish_reason
        self.news.set()

    def fail(self, error: OrpheusError | None) -> None:
        if self.finish_reason is None and self.error is None:
            self.error = error
            self.news.set()

    @property
    def over(self) -> bool:
        return self.finish_reason is not None or self.error is not None


class CompletionsGenerator:
    """A TokenGenerator on one or several servers of the same model.

    A request goes to the healthy server with the fewest of our requests. Until its first id it moves on to the next
    server when one refuses, is full or cannot be reached; after that a break ends it with ConnectionFailed, which leaves
    the requests on other servers alone. Closing the iterator closes the connection, which is how these servers abort.

    Args:
        urls: `http://host:port`, with or without `/v1` (or `/v1/completions`) at the end.
        vocabulary: the model's ids.
        api_key: sent as a bearer token.
        options: how the servers are used.
    """

    def __init__(
        self,
        urls: Iterable[str],
        vocabulary: Vocabulary,
        *,
        api_key: str | None = None,
        options: CompletionsOptions | None = None,
    ) -> None:
        self.options = options or CompletionsOptions()
        self.servers = [Server(_base(url), model=self.options.model) for url in urls]
        if not self.servers:
            raise InvalidOptions("at least one url is needed")
        self._vocabulary = vocabulary
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._session: aiohttp.ClientSession | None = None
        self._looking: asyncio.Task[None] | None = None
        self._requests: dict[str, _Request] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = itertools.count()

    # ---- life

    async def start(self) -> None:
        """Look at every server. Raises ConnectionFailed if none answers, InvalidOptions if one refuses the key."""
        if self._session is not None:
            return
        self._session = aiohttp.ClientSession(
            headers=self._headers,
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(
                total=None,
                sock_connect=self.options.connect_timeout_s,
                sock_read=self.options.silence_timeout_s,
            ),
        )
        try:
            failures = await asyncio.gather(
                *(self._meet(server) for server in self.servers), return_exceptions=True
            )
            for failure in failures:
                if failure is not None and not isinstance(failure, ConnectionFailed):
                    raise failure
            for failure in failures:
                if failure is not None:
                    logger.warning("%s", failure)
            if all(failures):
                raise ConnectionFailed("; ".join(str(failure) for failure in failures))
        except BaseException:
            await self.aclose()
            raise
        self._looking = asyncio.create_task(self._look(), name="orpheus-server-health")

    async def aclose(self) -> None:
        """Close all connections; running requests end with EngineDied. Idempotent."""
        session, self._session = self._session, None
        looking, self._looking = self._looking, None
        if looking is not None:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
        for request in self._requests.values():
            request.fail(EngineDied("the connection to the token servers was closed"))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if session is not None:
            await session.close()

    @property
    def running(self) -> int:
        """Requests sent and, as far as was heard, not over."""
        return sum(not request.over for request in self._requests.values())

    async def _meet(self, server: Server) -> None:
        """Ask a server for its models."""
        try:
            async with self._alive().get(f"{server.base}/models") as response:
                if response.status in (401, 403):
                    raise _refused(server, response.status)
                server.healthy = response.status < 500
                if not server.healthy:
                    raise ConnectionFailed(f"{server.base} answers {response.status}")
                if server.model is None:
                    server.model = _first_model(await response.read())
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            server.healthy = False
            raise ConnectionFailed(f"{server.base} cannot be reached: {_said(error)}") from error

    async def _look(self) -> None:
        """Keep `healthy` true to the facts."""
        while True:
            await asyncio.sleep(self.options.health_interval_s)
            await asyncio.gather(*(self._look_at(server) for server in self.servers))

    async def _look_at(self, server: Server) -> None:
        was = server.healthy
        try:
            if server.model is None:
                await self._meet(server)
            timeout = aiohttp.ClientTimeout(total=self.options.connect_timeout_s)
            async with self._alive().get(server.health, timeout=timeout) as response:
                server.healthy = response.status < 500  # 404: it has no such page, but it is there
        except (OrpheusError, aiohttp.ClientError, TimeoutError, OSError):
            server.healthy = False
        if server.healthy != was:
            logger.warning("%s is %s", server.base, "back" if server.healthy else "down")

    def _alive(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise EngineDied("the connection to the token servers is closed")
        return self._session

    # ---- requests

    def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingParams,
        request_id: str,
        *,
        priority: int = 0,
    ) -> AsyncGenerator[TokenChunk, None]:
        """See TokenGenerator. The request is checked here and sent at the first step of the iterator.

        Besides EngineDied after `aclose`, raises ConnectionFailed where a server is lost, AtCapacity when all are full,
        and InvalidOptions with the server's words when it refuses the request.
        """
        self._alive()
        prompt = checked_prompt(prompt_ids, self._vocabulary.size)
        check_sampling(sampling)
        return self._stream(_Request(request_id, prompt, sampling, priority))

    async def _stream(self, request: _Request) -> AsyncGenerator[TokenChunk, None]:
        """The request's ids. A task of its own reads them, so that a busy consumer does not hold up the server."""
        if request.request_id in self._requests:
            raise InvalidOptions(f"request {request.request_id!r} is already running")
        self._requests[request.request_id] = request
        task = asyncio.create_task(self._run(request), name=f"orpheus-{request.request_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            while True:
                await request.news.wait()
                request.news.clear()
                ids, finish, error = request.ids, request.finish_reason, request.error
                request.ids = []  # more may come while the consumer has these
                if ids or finish is not None:
                    yield TokenChunk(ids, finish)
                if finish is not None:
                    return
                if error is not None:
                    raise error
        finally:
            del self._requests[request.request_id]
            if request.finish_reason is None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _run(self, request: _Request) -> None:
        """Bring the request to one server after the other, until one gives an id."""
        failure: OrpheusError | None = None
        try:
            for server in self._in_order():
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
        except Exception as error:  # a bug of ours must not leave the consumer waiting
            failure = GenerationFailed(f"internal error while reading tokens: {error!r}")
            failure.__cause__ = error
        request.fail(failure)

    def _in_order(self) -> list[Server]:
        """Healthy servers first, the least loaded of them first, equals in turn."""
        shift = next(self._turn) % len(self.servers)
        turned = self.servers[shift:] + self.servers[:shift]
        return sorted(turned, key=lambda server: (not server.healthy, server.running))

    async def _ask(self, server: Server, request: _Request) -> None:
        """The request on one server, to its end."""
        try:
            async with contextlib.AsyncExitStack() as stack:
                await self._read(server, await self._post(server, stack, request), request)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ConnectionFailed(f"{server.base}: {_said(error)}") from error

    async def _post(
        self, server: Server, stack: contextlib.AsyncExitStack, request: _Request
    ) -> aiohttp.ClientResponse:
        """The answer to the request, of status 200, closed by `stack`."""
        as_text = self.options.prompt == "text" or (
            self.options.prompt == "auto" and server.takes_ids is False
        )
        while True:
            response = await self._alive().post(
                f"{server.base}/completions",
                json=self._body(server, request, as_text),
                headers={"X-Request-Id": request.request_id},
            )
            # Unless it was read to its end, the connection goes with it: that aborts the request.
            stack.callback(response.close)
            if response.status == 200:
                if self.options.prompt == "auto":
                    server.takes_ids = not as_text
                return response
            said = _message(await response.read())
            may_not_take_ids = (
                response.status in (400, 422)
                and not as_text
                and self.options.prompt == "auto"
                and server.takes_ids is None
            )
            if not may_not_take_ids:
                raise _failure(server, response.status, said)
            logger.info("%s refuses a prompt of ids (%s), trying text", server.base, said)
            as_text = True

    def _body(self, server: Server, request: _Request, as_text: bool) -> dict[str, Any]:
        vocabulary, sampling = self._vocabulary, request.sampling
        body: dict[str, Any] = {
            "model": server.model or "orpheus",
            "prompt": vocabulary.decode(request.prompt) if as_text else request.prompt,
            "stream": True,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "repetition_penalty": sampling.repetition_penalty,  # vLLM, SGLang
            "repeat_penalty": sampling.repetition_penalty,  # llama.cpp, which...
            "repeat_last_n": -1,  # ...otherwise looks at 64 ids only
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
        """Hand on the ids of an answer, up to its end or the stop id."""
        stop = self._vocabulary.end_of_speech
        events = EventReader()
        text = TokenText(self._vocabulary.audio_base - 10)
        finish: str | None = None
        async for data in response.content.iter_any():
            ids: list[int] = []
            for event in events.push(data):
                if event == "[DONE]":
                    finish = finish or "stop"
                    break
                choice = _choice(server, event)
                given = choice.get("token_ids")
                ids += given if given is not None else text.push(choice.get("text") or "")
                finish = choice.get("finish_reason") or finish
            if stop in ids:
                request.put(ids[: ids.index(stop)], "stop")
                return
            if finish is not None:
                if finish == "length" and text.lost and not text.found:
                    raise GenerationFailed(
                        f"{server.base} sends text without <custom_token_N>, such as {text.lost!r}: it must either"
                        " support return_token_ids or show special tokens"
                    )
                request.put(ids, _finish(server, finish))
                with contextlib.suppress(TimeoutError, aiohttp.ClientError):
                    async with asyncio.timeout(0.25):
                        await response.read()  # to the end, so that the connection is used again
                return
            if ids:
                request.put(ids, None)
        raise ConnectionFailed(f"{server.base} broke off in the middle of an answer")


class TokenText:
    """Ids from a stream of text in which each id is written `<custom_token_N>`, wherever the pieces are cut.

    Attributes:
        found: number of ids found.
        lost: the beginning of the text that was no id.
    """

    _TOKEN = re.compile(r"<custom_token_(\d{1,6})>")
    _LONGEST = len("<custom_token_000000>")

    def __init__(self, base: int) -> None:
        """base: id of `<custom_token_0>`."""
        self._base = base
        self._rest = ""
        self.found = 0
        self.lost = ""

    def push(self, text: str) -> list[int]:
        """The ids that are complete with this piece."""
        text = self._rest + text
        ids: list[int] = []
        end = 0
        for match in self._TOKEN.finditer(text):
            ids.append(self._base + int(match[1]))
            self._lose(text[end : match.start()])
            end = match.end()
        begun = text.rfind("<", end)
        if begun < 0 or len(text) - begun >= self._LONGEST:
            begun = len(text)
        self._lose(text[end:begun])
        self._rest = text[begun:]
        self.found += len(ids)
        return ids

    def _lose(self, text: str) -> None:
        if len(self.lost) < 40:
            self.lost = (self.lost + text.strip())[:40]


def _base(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise InvalidOptions(f"{url!r} is no url such as http://host:8000/v1")
    base = url.split("?")[0].rstrip("/").removesuffix("/completions").rstrip("/")
    return base if base.endswith("/v1") else f"{base}/v1"


def _first_model(body: bytes) -> str | None:
    try:
        name = json.loads(body)["data"][0]["id"]
    except (ValueError, LookupError, TypeError):
        return None
    return str(name)


def _choice(server: Server, event: str) -> dict[str, Any]:
    """The first choice of an event; an empty one for events that only carry usage."""
    try:
        value = json.loads(event)
        if "error" in value:
            error = value["error"]
            status = error.get("code") if isinstance(error, dict) else None
            raise _failure(
                server, status if isinstance(status, int) else 500, _message(event.encode())
            )
        choices = value.get("choices") or [{}]
        return dict(choices[0])
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        if isinstance(error, OrpheusError):
            raise
        raise GenerationFailed(
            f"{server.base} sent what is no completion: {event[:200]!r}"
        ) from error


def _finish(server: Server, reason: str) -> FinishReason:
    if reason in ("stop", "length", "abort"):
        return cast("FinishReason", reason)
    raise GenerationFailed(f"{server.base} ended the request with {reason!r}")


def _failure(server: Server, status: int, said: str) -> OrpheusError:
    if status in (401, 403):
        return _refused(server, status)
    if status in (429, 503):
        return AtCapacity(f"{server.base} is full: {said}")
    if status >= 500:
        return ConnectionFailed(f"{server.base} failed ({status}): {said}")
    return InvalidOptions(f"{server.base} refuses the request ({status}): {said}")


def _refused(server: Server, status: int) -> InvalidOptions:
    return InvalidOptions(
        f"{server.base} refuses the api key ({status}); give the right one as api_key"
    )


def _message(body: bytes) -> str:
    """What a server says went wrong: OpenAI's {"error": {"message": ...}} or the beginning of anything else."""
    text = body.decode("utf-8", "replace")
    with contextlib.suppress(ValueError, AttributeError):
        value = json.loads(text)
        error = value.get("error", value)
        message = error.get("message") or error.get("detail") if isinstance(error, dict) else error
        if message:
            return str(message)[:500]
    return text.strip()[:500] or "no reason given"


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__


__all__ = ["CompletionsGenerator", "CompletionsOptions", "Server", "TokenText"]
