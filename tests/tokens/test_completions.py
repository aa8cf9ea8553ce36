"""CompletionsGenerator against a small server that shows every wire format and failure on
demand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from orpheus_plugin.errors import (
    AtCapacity,
    ConnectionFailed,
    EngineDied,
    GenerationFailed,
    InvalidOptions,
    OrpheusError,
)
from orpheus_plugin.tokens.base import SamplingParams, TokenGenerator
from orpheus_plugin.tokens.completions.generator import CompletionsGenerator
from orpheus_plugin.tokens.completions.options import CompletionsOptions
from orpheus_plugin.tokens.completions.parsing import EventReader, TokenText
from orpheus_plugin.tokens.vocabulary import Vocabulary
from tests.support.checkpoints import SMALL_TEXT, crafted_checkpoint

VOCABULARY = Vocabulary.load(crafted_checkpoint(text=SMALL_TEXT))
AUDIO = VOCABULARY.audio_base
STOP = VOCABULARY.end_of_speech
BASE = AUDIO - 10  # id of <custom_token_0>
IDS = [AUDIO + 4096 * slot + 5 for slot in range(7)]
PROMPT_TEXT = "<custom_token_3>hi"
PROMPT = [BASE + 3, *VOCABULARY.text_ids("hi")]

Handler = Callable[["FakeServer", dict[str, Any]], AsyncIterator[str | bytes]]


@dataclass
class FakeServer:
    """Answers completions with what `script` yields: a str is the data of one event, bytes go out
    as they are."""

    script: Handler
    key: str | None = None
    status: int = 200
    up: bool = True
    takes_ids: bool = True
    mute: bool = False  # takes a request and does not even send the head of an answer
    whole: str | None = None  # the whole answer, JSON or HTML, in place of events
    bodies: list[dict[str, Any]] = field(default_factory=list)
    running: int = 0
    aborted: int = 0
    connections: set[Any] = field(default_factory=set)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    server: TestServer | None = None

    @property
    def url(self) -> str:
        assert self.server is not None
        return str(self.server.make_url("/"))

    async def models(self, request: web.Request) -> web.Response:
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.json_response({"error": {"message": "no"}}, status=401)
        return web.json_response({"data": [{"id": "the-model"}]}, status=200 if self.up else 503)

    async def health(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if self.up else 503)

    async def completions(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.connections.add(request.transport)
        if self.mute:
            await asyncio.sleep(60)
        if self.status != 200:
            return web.json_response({"error": {"message": "because"}}, status=self.status)
        if self.whole is not None:
            kind = "text/html" if self.whole.startswith("<") else "application/json"
            return web.Response(text=self.whole, content_type=kind)
        if not self.takes_ids and not isinstance(body["prompt"], str):
            return web.json_response({"error": {"message": "prompt: not a string"}}, status=400)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        self.running += 1
        try:
            async for piece in self.script(self, body):
                if piece is BREAK:
                    assert request.transport is not None
                    request.transport.abort()
                    return response
                await response.write(
                    piece.encode() if isinstance(piece, str) and piece.startswith(":") else
                    f"data: {piece}\n\n".encode() if isinstance(piece, str) else piece
                )  # fmt: skip
            await response.write_eof()
        except (ConnectionError, asyncio.CancelledError):
            self.aborted += 1
            raise
        finally:
            self.running -= 1
        return response


BREAK = b"break off"


def event(ids: list[int] | None = None, finish: str | None = None, text: str = "") -> str:
    choice: dict[str, Any] = {"index": 0, "text": text, "finish_reason": finish}
    if ids is not None:
        choice["token_ids"] = ids
    return json.dumps({"choices": [choice]})


async def plain(server: FakeServer, body: dict[str, Any]) -> AsyncIterator[str | bytes]:
    for i in IDS:
        yield event([i])
    yield event([STOP], "stop")
    yield "[DONE]"


async def endless(server: FakeServer, body: dict[str, Any]) -> AsyncIterator[str | bytes]:
    while True:
        yield event(IDS)
        await asyncio.sleep(0.005)


async def gated(server: FakeServer, body: dict[str, Any]) -> AsyncIterator[str | bytes]:
    await server.gate.wait()
    yield event(IDS, "stop")


@asynccontextmanager
async def serving(*servers: FakeServer) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for server in servers:
            app = web.Application()
            app.router.add_get("/v1/models", server.models)
            app.router.add_get("/health", server.health)
            app.router.add_post("/v1/completions", server.completions)
            server.server = TestServer(app)
            await server.server.start_server()
            stack.push_async_callback(server.server.close)
        yield


@asynccontextmanager
async def generator(*servers: FakeServer, **kwargs: Any) -> AsyncIterator[CompletionsGenerator]:
    async with serving(*servers):
        made = CompletionsGenerator([server.url for server in servers], VOCABULARY, **kwargs)
        await made.start()
        try:
            yield made
        finally:
            await made.aclose()


async def collect(
    made: TokenGenerator, request_id: str = "r", **sampling: Any
) -> tuple[list[int], str | None, list[int]]:
    """(ids, finish, number of ids in each chunk)."""
    ids: list[int] = []
    sizes: list[int] = []
    finish = None
    async for chunk in made.generate(PROMPT, SamplingParams(**sampling), request_id):
        assert finish is None, "a chunk after the last"
        assert chunk.ids or chunk.finish_reason
        ids += chunk.ids
        sizes.append(len(chunk.ids))
        finish = chunk.finish_reason
    return ids, finish, sizes


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(3):
        while not condition():
            await asyncio.sleep(0.005)


# ---- reading the wire


def every_cut(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    for i in range(len(data) + 1):
        yield data[:i], data[i:]


def test_events_are_read_however_the_bytes_are_split() -> None:
    wire = (
        b': ping\r\n\r\ndata: {"a": "\xc3\xa4"}\n\ndata:two\r\ndata: lines\r\n\r\n'
        b"event: x\ndata: [DONE]\n\n"
    )
    for head, tail in every_cut(wire):
        reader = EventReader()
        assert reader.push(head) + reader.push(tail) == ['{"a": "ä"}', "two\nlines", "[DONE]"]


@given(st.lists(st.integers(0, 28_681), max_size=20), st.lists(st.integers(0, 400), max_size=8))
def test_token_text_is_read_however_it_is_split(numbers: list[int], cuts: list[int]) -> None:
    text = " ".join(f"<custom_token_{n}>" for n in numbers)
    reader = TokenText(BASE)
    ids: list[int] = []
    last = 0
    for cut in [*sorted(cuts), len(text)]:
        ids += reader.push(text[last:cut])
        last = max(last, cut)
    assert ids == [BASE + n for n in numbers]
    assert (reader.other, reader.words) == (0, "")


def test_token_text_drops_other_text() -> None:
    reader = TokenText(BASE)
    assert reader.push("a <b <custom_token_x> <custom_token_7>< <custom_") == [BASE + 7]
    assert reader.push("token_8>" + "<" * 50) == [BASE + 8]
    assert reader.words.startswith("a <b")


@pytest.mark.parametrize(
    "url",
    ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/", "http://h:1/v1/completions"],
)
def test_urls_are_accepted_in_any_form(url: str) -> None:
    (server,) = CompletionsGenerator([url], VOCABULARY).servers
    assert (server.base, server.health) == ("http://h:1/v1", "http://h:1/health")


@pytest.mark.parametrize("url", ["h:1", "", "ftp://h", "http://"])
def test_no_urls_are_refused(url: str) -> None:
    with pytest.raises(InvalidOptions, match="url"):
        CompletionsGenerator([url], VOCABULARY)
    with pytest.raises(InvalidOptions, match="url"):
        CompletionsGenerator([], VOCABULARY)


# ---- what servers send


async def test_ids_are_read_from_events() -> None:
    fake = FakeServer(plain, key="secret")
    async with generator(fake, api_key="secret") as made:
        assert isinstance(made, TokenGenerator)
        ids, finish, _ = await collect(made, max_tokens=77, seed=3)
    assert (ids, finish) == (IDS, "stop")
    (body,) = fake.bodies
    assert body["prompt"] == PROMPT
    assert body["model"] == "the-model"
    assert (body["max_tokens"], body["seed"], body["stop_token_ids"]) == (77, 3, [STOP])
    assert body["repetition_penalty"] == body["repeat_penalty"] == 1.1


async def test_a_seed_is_sent_only_if_given() -> None:
    fake = FakeServer(plain)
    async with generator(fake) as made:
        await collect(made)
    assert "seed" not in fake.bodies[0]


async def test_extra_body_overrides_our_fields() -> None:
    fake = FakeServer(plain)
    options = CompletionsOptions(model="mine", extra_body={"min_p": 0.1, "top_p": 0.5})
    async with generator(fake, options=options) as made:
        await collect(made)
    assert (fake.bodies[0]["min_p"], fake.bodies[0]["top_p"]) == (0.1, 0.5)
    assert fake.bodies[0]["model"] == "mine"


async def test_an_event_may_hold_several_ids_and_the_stop_among_them() -> None:
    async def script(server: FakeServer, body: dict[str, Any]) -> AsyncIterator[str | bytes]:
        yield event(IDS[:3])
        yield ": ping\n\n"
        await asyncio.sleep(0.05)
        yield event([*IDS[3:], STOP, IDS[0]])
        await asyncio.sleep(60)

    fake = FakeServer(script)
    async with generator(fake) as made:
        ids, finish, sizes = await collect(made)
        assert (ids, finish, sizes) == (IDS, "stop", [3, 4])
        await until(lambda: fake.running == 0)


async def test_text_is_read_if_a_server_gives_no_ids() -> None:
    text = "".join(f"<custom_token_{i - BASE}>" for i in IDS)

    async def script(server: FakeServer, body: dict[str, Any]) -> AsyncIterator[str | bytes]:
        for i in range(0, len(text), 5):
            yield event(None, text=text[i : i + 5])
        yield event(None, "stop")
        yield json.dumps({"choices": [], "usage": {"completion_tokens": 7}})
        yield "[DONE]"

    async with generator(FakeServer(script)) as made:
        assert (await collect(made))[:2] == (IDS, "stop")


async def test_the_stop_id_is_read_from_text() -> None:
    async def script(server: FakeServer, body: dict[str, Any]) -> AsyncIterator[str | bytes]:
        yield event(None, text="<custom_token_15><custom_token_2><custom_token_16>")
        await asyncio.sleep(60)

    async with generator(FakeServer(script)) as made:
        assert (await collect(made))[:2] == ([BASE + 15], "stop")


PROSE = "**Tara: I'm sorry**, but I cannot speak."


def said(text: str, form: str) -> dict[str, Any]:
    forms: dict[str, dict[str, Any]] = {
        "text": {"text": text},
        "chat": {"delta": {"content": text}},
        "ids": {"text": text, "token_ids": VOCABULARY.text_ids(text)},
        "ids alone": {"text": "", "token_ids": [i % 200 for i in range(len(text))]},
    }
    return forms[form]


@pytest.mark.parametrize("form", ["text", "chat", "ids", "ids alone"])
@pytest.mark.parametrize("finish", ["stop", "length", "[DONE]", "stop id"])
async def test_a_server_that_answers_with_prose_is_reported(form: str, finish: str) -> None:
    async def script(server: FakeServer, body: dict[str, Any]) -> AsyncIterator[str | bytes]:
        for piece in (PROSE[:5], PROSE[5:]):
            yield json.dumps({"choices": [said(piece, form)]})
        if finish == "stop id":
            yield event([STOP], "stop")
        elif finish != "[DONE]":
            yield json.dumps({"choices": [said("", form) | {"finish_reason": finish}]})
        yield "[DONE]"

    async with generator(FakeServer(script)) as made:
        with pytest.raises(GenerationFailed) as failed:
            await collect(made)
    message = str(failed.value)
    assert "does not answer as an Orpheus server" in message
    assert ("Tara: I'm sorry" if form != "ids alone" else "[0, 1, 2, 3, 4]") in message
    for check in ("<custom_token_N>", "the-model", "chat template", "return_token_ids"):
        assert check in message


@pytest.mark.parametrize("form", ["text", "chat", "ids", "ids alone"])
async def test_endless_prose_is_not_read_to_its_end(form: str) -> None:
    async def script(server: FakeServer, body: dict[str, Any]) -> AsyncIterator[str | bytes]:
        while True:
            yield json.dumps({"choices": [said(PROSE, form)]})
            await asyncio.sleep(0)

    fake = FakeServer(script)
    async with generator(fake) as made:
        with pytest.raises(GenerationFailed, match="Orpheus server"):
            await collect(made, max_tokens=1900)
        await until(lambda: fake.running == 0)


async def test_words_beside_audio_are_dropped() -> None:
    async def script(server: FakeServer, body: dict[str, Any]) -> AsyncIterator[str | bytes]:
        yield event(None, text="Tara: ")
        for i in IDS:
            yield event(None, text=f" <custom_token_{i - BASE}> and")
        yield event(None, "stop", text="<custom_token_2>")

    async with generator(FakeServer(script)) as made:
        assert (await collect(made))[:2] == (IDS, "stop")


async def test_control_marks_and_the_stop_alone_are_an_answer() -> None:
    async def script(server: FakeServer, body: dict[str, Any]) -> AsyncIterator[str | bytes]:
        yield event([VOCABULARY.start_of_ai, VOCABULARY.start_of_speech])
        yield event([STOP], "stop")

    async with generator(FakeServer(script)) as made:
        assert (await collect(made))[1] == "stop"


@pytest.mark.parametrize("prose", [False, True])
async def test_an_answer_that_is_not_streamed_is_read(prose: bool) -> None:
    text = PROSE if prose else "".join(f"<custom_token_{i - BASE}>" for i in IDS)
    fake = FakeServer(
        plain, whole=json.dumps({"choices": [{"text": text, "finish_reason": "stop"}]})
    )
    async with generator(fake) as made:
        if prose:
            with pytest.raises(GenerationFailed, match="Tara"):
                await collect(made)
        else:
            assert (await collect(made))[:2] == (IDS, "stop")


async def test_a_web_page_is_reported_as_one() -> None:
    fake = FakeServer(plain, whole="<html><body>Please log in</body></html>")
    async with generator(fake) as made:
        with pytest.raises(GenerationFailed, match=r"web page .*log in.*check the url"):
            await collect(made)


async def test_a_slow_consumer_gets_all_ids() -> None:
    async with generator(FakeServer(plain)) as made:
        got: list[int] = []
        finishes = []
        async for chunk in made.generate([1], SamplingParams(), "r"):
            got += chunk.ids
            finishes.append(chunk.finish_reason)
            await asyncio.sleep(0.05)
    assert got == IDS
    assert finishes[-1] == "stop"


async def test_the_length_limit_is_the_finish_reason() -> None:
    async def script(server: FakeServer, body: dict[str, Any]) -> AsyncIterator[str | bytes]:
        yield event(IDS)
        yield event([], "length")

    async with generator(FakeServer(script)) as made:
        assert (await collect(made))[:2] == (IDS, "length")


async def test_done_without_a_reason_is_a_stop() -> None:
    async def script(server: FakeServer, body: dict[str, Any]) -> AsyncIterator[str | bytes]:
        yield event(IDS)
        yield "[DONE]"

    async with generator(FakeServer(script)) as made:
        assert (await collect(made))[:2] == (IDS, "stop")


@pytest.mark.parametrize(
    "nonsense",
    [
        "{nonsense",
        '["nonsense"]',
        '{"choices": "nonsense"}',
        '{"choices": ["nonsense"]}',
        '{"choices": [{"token_ids": ["nonsense"]}]}',
        '{"choices": [{"text": {"nonsense": 1}}]}',
    ],
)
async def test_malformed_answers_are_reported(nonsense: str) -> None:
    async def script(server: FakeServer, body: dict[str, Any]) -> AsyncIterator[str | bytes]:
        yield nonsense

    async with generator(FakeServer(script)) as made:
        with pytest.raises(GenerationFailed, match=r"sent no completion: .*nonsense"):
            await collect(made)


async def test_a_prompt_is_sent_as_text_to_a_server_that_takes_no_ids() -> None:
    fake = FakeServer(plain, takes_ids=False)
    async with generator(fake) as made:
        assert (await collect(made, "one"))[0] == IDS
        assert (await collect(made, "two"))[0] == IDS
    assert [body["prompt"] for body in fake.bodies] == [PROMPT, PROMPT_TEXT, PROMPT_TEXT]


async def test_a_prompt_is_sent_as_text_on_request() -> None:
    fake = FakeServer(plain)
    async with generator(fake, options=CompletionsOptions(prompt="text")) as made:
        await collect(made)
    assert fake.bodies[0]["prompt"] == PROMPT_TEXT


async def test_priorities_are_sent_if_the_server_supports_them() -> None:
    fake = FakeServer(plain)
    for known in (False, True):
        async with generator(fake, options=CompletionsOptions(priorities=known)) as made:
            async for _ in made.generate(PROMPT, SamplingParams(), "r", priority=1):
                pass
    assert [body.get("priority") for body in fake.bodies] == [None, 1]


async def test_the_connection_of_a_finished_answer_is_used_again() -> None:
    fake = FakeServer(plain)
    async with generator(fake) as made:
        for i in range(5):
            await collect(made, str(i))
    assert len(fake.connections) == 1


# ---- what goes wrong


@pytest.mark.parametrize(
    ("status", "kind", "says"),
    [
        (400, InvalidOptions, "because"),
        (401, InvalidOptions, "api key"),
        (404, InvalidOptions, "because"),
        (429, AtCapacity, "full"),
        (503, AtCapacity, "full"),
        (500, ConnectionFailed, "because"),
    ],
)
async def test_refusals_are_reported(status: int, kind: type[OrpheusError], says: str) -> None:
    async with generator(FakeServer(plain, status=status)) as made:
        with pytest.raises(kind, match=says):
            await collect(made)
        assert made.running == 0
        assert made.servers[0].running == 0


async def test_the_wrong_key_is_found_at_the_start() -> None:
    with pytest.raises(InvalidOptions, match="api key"):
        async with generator(FakeServer(plain, key="secret"), api_key="wrong"):
            pass


async def test_a_missing_server_is_an_error() -> None:
    fake = FakeServer(plain)
    async with serving(fake):
        url = fake.url
    made = CompletionsGenerator([url], VOCABULARY)
    with pytest.raises(ConnectionFailed, match="cannot be reached"):
        await made.start()
    with pytest.raises(EngineDied):
        await collect(made)


async def test_bad_requests_are_not_sent() -> None:
    fake = FakeServer(plain)
    async with generator(fake) as made:
        for prompt in ([], [-1], [VOCABULARY.size]):
            with pytest.raises(InvalidOptions):
                async for _ in made.generate(prompt, SamplingParams(), "bad"):
                    pass
        with pytest.raises(InvalidOptions):
            await collect(made, temperature=-1.0)
    assert fake.bodies == []


async def test_a_connection_lost_in_the_middle_is_an_error() -> None:
    async def script(server: FakeServer, body: dict[str, Any]) -> AsyncIterator[str | bytes]:
        yield event(IDS)
        await asyncio.sleep(0.05)
        yield BREAK

    broken, whole = FakeServer(script), FakeServer(plain)
    async with generator(broken, whole) as made:
        made.servers[1].running = 1  # so that the first is chosen
        chunks = made.generate([1], SamplingParams(), "r")
        assert (await anext(chunks)).ids == IDS
        with pytest.raises(ConnectionFailed):
            await anext(chunks)
        assert not whole.bodies, "begun again after its first ids"
        assert not made.servers[0].healthy


async def test_an_answer_without_an_end_is_an_error() -> None:
    async def script(server: FakeServer, body: dict[str, Any]) -> AsyncIterator[str | bytes]:
        yield event(IDS)

    async with generator(FakeServer(script)) as made:
        with pytest.raises(ConnectionFailed, match="in the middle"):
            await collect(made)


async def test_an_error_event_is_an_error() -> None:
    async def script(server: FakeServer, body: dict[str, Any]) -> AsyncIterator[str | bytes]:
        yield event(IDS)
        yield json.dumps({"error": {"message": "engine dead", "code": 500}})

    async with generator(FakeServer(script)) as made:
        with pytest.raises(ConnectionFailed, match="engine dead"):
            await collect(made)


async def test_an_answer_that_stalls_times_out() -> None:
    async with generator(
        FakeServer(gated), options=CompletionsOptions(silence_timeout_s=0.1)
    ) as made:
        with pytest.raises(ConnectionFailed):
            await collect(made)


async def test_a_request_id_is_used_once_at_a_time() -> None:
    fake = FakeServer(gated)
    async with generator(fake) as made:
        first = asyncio.create_task(collect(made, "same"))
        await until(lambda: fake.running == 1)
        with pytest.raises(InvalidOptions, match="same"):
            await collect(made, "same")
        fake.gate.set()
        assert (await first)[0] == IDS
        assert (await collect(made, "same"))[0] == IDS


# ---- leaving


async def leave_by_closing(made: CompletionsGenerator) -> None:
    async with aclosing(made.generate([1], SamplingParams(), "r")) as chunks:
        async for _ in chunks:
            break


async def leave_by_cancelling(made: CompletionsGenerator) -> None:
    task = asyncio.create_task(collect(made))
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("leave", [leave_by_closing, leave_by_cancelling])
async def test_closing_the_iterator_disconnects(
    leave: Callable[[CompletionsGenerator], Awaitable[None]],
) -> None:
    fake = FakeServer(endless)
    async with generator(fake) as made:
        await leave(made)
        assert made.running == 0
        await until(lambda: fake.running == 0)
        assert fake.aborted == 1


async def test_closing_the_iterator_before_the_answer_disconnects() -> None:
    fake = FakeServer(gated)
    async with generator(fake) as made:
        task = asyncio.create_task(collect(made))
        await until(lambda: fake.running == 1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await until(lambda: fake.running == 0)


async def test_closing_the_generator_ends_running_requests() -> None:
    fake, silent = FakeServer(endless), FakeServer(plain, mute=True)
    async with generator(fake, silent) as made:
        reading = asyncio.create_task(collect(made, "reading"))
        await until(lambda: fake.running == 1)
        await asyncio.sleep(0.05)
        waiting = asyncio.create_task(collect(made, "waiting"))
        await until(lambda: len(silent.bodies) == 1)
        await made.aclose()
        for task in (reading, waiting):
            with pytest.raises(EngineDied):
                await asyncio.wait_for(task, 1)
        await made.aclose()
        await made.start()
        fake.script, silent.mute = plain, False
        assert (await collect(made))[0] == IDS


# ---- several servers


async def test_the_least_loaded_is_chosen() -> None:
    fakes = [FakeServer(gated) for _ in range(3)]
    async with generator(*fakes) as made:
        tasks = [asyncio.create_task(collect(made, str(i))) for i in range(9)]
        await until(lambda: sum(fake.running for fake in fakes) == 9)
        assert [fake.running for fake in fakes] == [3, 3, 3]
        for fake in fakes:
            fake.gate.set()
        await asyncio.gather(*tasks)
        assert [server.running for server in made.servers] == [0, 0, 0]


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_the_next_server_is_tried_before_the_first_id(status: int) -> None:
    bad, good = FakeServer(plain, status=status), FakeServer(plain)
    async with generator(bad, good) as made:
        for i in range(4):
            assert (await collect(made, str(i)))[0] == IDS
    assert good.bodies


async def test_a_dead_server_is_avoided_until_it_is_back() -> None:
    one, two = FakeServer(plain), FakeServer(plain)
    async with generator(one, two, options=CompletionsOptions(health_interval_s=0.05)) as made:
        one.up = False
        await until(lambda: not made.servers[0].healthy)
        for i in range(4):
            await collect(made, str(i))
        assert (len(one.bodies), len(two.bodies)) == (0, 4)
        one.up = True
        await until(lambda: made.servers[0].healthy)
        for i in range(4):
            await collect(made, str(i))
        assert len(one.bodies) == 2


async def test_one_server_of_two_is_enough_to_start(caplog: pytest.LogCaptureFixture) -> None:
    one, two = FakeServer(plain), FakeServer(plain)
    one.up = False
    async with generator(one, two) as made:
        assert (await collect(made))[0] == IDS
    assert not one.bodies
    assert "503" in caplog.text


async def test_if_all_servers_are_full_the_error_is_at_capacity() -> None:
    full, dead = FakeServer(plain, status=429), FakeServer(plain, status=500)
    async with generator(full, dead) as made:
        with pytest.raises(AtCapacity):
            await collect(made)
