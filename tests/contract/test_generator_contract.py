"""The contract of every token generator.

To put another one under test, append to GENERATORS: an async context manager that takes a model
directory and its vocabulary and gives a started generator.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import aiohttp
import pytest
import pytest_asyncio

from orpheus_plugin.errors import EngineDied, InvalidOptions
from orpheus_plugin.tokens.base import FinishReason, SamplingParams, TokenChunk, TokenGenerator
from orpheus_plugin.tokens.completions.generator import CompletionsGenerator
from orpheus_plugin.tokens.completions.options import CompletionsOptions
from orpheus_plugin.tokens.cpu.generator import CpuLlama
from orpheus_plugin.tokens.phrases import CachedGenerator, CacheOptions, PhraseCache
from orpheus_plugin.tokens.torch.generator import TorchLlama
from orpheus_plugin.tokens.vllm.generator import VllmGenerator
from orpheus_plugin.tokens.vllm.options import VllmOptions
from orpheus_plugin.tokens.vocabulary import Vocabulary
from tests.support.adapters import random_adapter, steering_adapter
from tests.support.checkpoints import crafted_checkpoint, kept
from tests.support.generators import Wrapper, started
from tests.support.ids import slot_and_code
from tests.support.token_servers import VLLM_PLACES, openai_server, vllm_server

Make = Callable[..., AbstractAsyncContextManager[TokenGenerator]]
Adapters = Mapping[str, Path]


@dataclass(frozen=True)
class Case:
    """A generator under test.

    Attributes:
        make: starts it on a checkpoint.
        sampling: the options of most tests; for engines whose sampler is slow on a CPU, cheaper
            ones.
        seeded: whether equal seeds give equal ids for single requests.
    """

    make: Make
    sampling: SamplingParams = SamplingParams(seed=1)  # noqa: RUF009 - frozen
    seeded: bool = True


@asynccontextmanager
async def torch_llama(
    model_dir: Path,
    vocabulary: Vocabulary,
    device: str = "cpu",
    adapters: Adapters | None = None,
) -> AsyncIterator[TokenGenerator]:
    async with started(
        TorchLlama(model_dir, vocabulary, max_streams=8, device=device, adapters=adapters)
    ) as generator:
        yield generator


@asynccontextmanager
async def cached(model_dir: Path, vocabulary: Vocabulary) -> AsyncIterator[TokenGenerator]:
    """A phrase cache before the model: what is asked for twice is replayed."""
    async with torch_llama(model_dir, vocabulary) as generator:
        yield CachedGenerator(generator, PhraseCache(CacheOptions(takes=1), "crafted"))


@asynccontextmanager
async def cpu_llama(
    model_dir: Path, vocabulary: Vocabulary, adapters: Adapters | None = None
) -> AsyncIterator[TokenGenerator]:
    async with started(
        CpuLlama(model_dir, vocabulary, max_streams=8, adapters=adapters)
    ) as generator:
        yield generator


@asynccontextmanager
async def completions(model_dir: Path, vocabulary: Vocabulary) -> AsyncIterator[TokenGenerator]:
    async with (
        torch_llama(model_dir, vocabulary) as behind,
        openai_server(behind, vocabulary.end_of_speech) as url,
        on_server(url, vocabulary) as generator,
    ):
        yield generator


@asynccontextmanager
async def vllm(
    model_dir: Path,
    vocabulary: Vocabulary,
    sampler: Literal["auto", "compact"] = "auto",
    adapters: Adapters | None = None,
) -> AsyncIterator[TokenGenerator]:
    key = model_dir, sampler, adapters is not None
    if key in _running:  # two vLLM at once would be slow, and gigabytes
        yield _running[key]
        return
    options = VllmOptions(
        max_streams=32, max_model_len=2048, kv_cache_bytes=256 << 20, sampler=sampler
    )
    generator = _running[key] = VllmGenerator(model_dir, vocabulary, options, adapters=adapters)
    await generator.start()
    try:
        yield generator
    finally:
        del _running[key]
        await generator.aclose()


class AsAlice(Wrapper[TokenGenerator]):
    """Every request speaks with the adapter "alice"."""

    adapter = "alice"


@asynccontextmanager
async def as_alice(
    make: Make, model_dir: Path, vocabulary: Vocabulary
) -> AsyncIterator[TokenGenerator]:
    """All that a generator must do, with an adapter."""

    def write(folder: Path) -> None:
        random_adapter(model_dir, folder, size=0.05)

    folder = kept(("adapter", str(model_dir)), write)
    async with make(model_dir, vocabulary, adapters={"alice": folder}) as generator:
        yield AsAlice(generator)


@asynccontextmanager
async def completions_vllm(
    model_dir: Path, vocabulary: Vocabulary
) -> AsyncIterator[TokenGenerator]:
    async with AsyncExitStack() as stack:
        if model_dir not in _urls:
            steady = stack.enter_context(TemporaryDirectory())
            _frames[model_dir] = steering_adapter(model_dir, vocabulary, Path(steady), seed=0)
            server = vllm_server(
                model_dir,
                *("--api-key", API_KEY, "--scheduling-policy", "priority"),
                # Two places: on a CPU the last one counts for requests without an adapter.
                *("--enable-lora", "--max-loras", "2", "--lora-modules", f"steady={steady}"),
            )
            _urls[model_dir] = await stack.enter_async_context(server)
            stack.callback(_urls.pop, model_dir)
        yield await stack.enter_async_context(
            on_server(_urls[model_dir], vocabulary, api_key=API_KEY)
        )


@asynccontextmanager
async def on_server(
    url: str,
    vocabulary: Vocabulary,
    api_key: str | None = None,
    options: CompletionsOptions | None = None,
) -> AsyncIterator[TokenGenerator]:
    async with started(
        CompletionsGenerator(
            [url], vocabulary, api_key=api_key, options=options, adapters={"sam": "steady"}
        )
    ) as generator:
        yield generator


API_KEY = "a-secret"
_running: dict[tuple[Path, str, bool], VllmGenerator] = {}
_urls: dict[Path, str] = {}
_frames: dict[Path, list[int]] = {}

# vLLM's own sampler sorts the whole vocabulary for top_p, 12 ms an id on a CPU; the compact one
# hardly anything.
QUICK = SamplingParams(seed=1, top_p=1.0, repetition_penalty=1.0)
GENERATORS: list[Any] = [
    pytest.param(Case(cpu_llama), id="cpu_llama"),
    pytest.param(Case(torch_llama), id="torch_llama"),
    pytest.param(Case(cached), id="cached"),
    pytest.param(Case(partial(torch_llama, device="cuda")), id="torch_cuda", marks=pytest.mark.gpu),
    pytest.param(Case(partial(as_alice, cpu_llama)), id="cpu_adapter"),
    pytest.param(Case(partial(as_alice, torch_llama)), id="torch_adapter"),
    pytest.param(Case(completions), id="completions"),
    pytest.param(Case(vllm), id="vllm", marks=pytest.mark.vllm),
    pytest.param(Case(partial(as_alice, vllm)), id="vllm_adapter", marks=pytest.mark.vllm),
    pytest.param(
        Case(partial(vllm, sampler="compact")),
        id="vllm_compact",
        marks=[pytest.mark.vllm, pytest.mark.gpu],  # the default on a CPU
    ),
    pytest.param(Case(completions_vllm, QUICK), id="completions_vllm", marks=pytest.mark.vllm),
]
on_a_real_server = pytest.mark.parametrize("case", [GENERATORS[-1]], indirect=True)

pytestmark = pytest.mark.asyncio(loop_scope="module")
HOT = 2.0  # the most that vLLM takes; the crafted stop id then comes once in some 800 frames
WAIT = 300  # seconds; only a generator that hangs ever waits so long


@pytest.fixture(scope="module", params=GENERATORS)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


@pytest.fixture(scope="module")
def checkpoint() -> Path:
    return crafted_checkpoint(stop=0.05)


@pytest.fixture(scope="module")
def vocabulary(checkpoint: Path) -> Vocabulary:
    return Vocabulary.load(checkpoint)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def generator(
    case: Case, checkpoint: Path, vocabulary: Vocabulary
) -> AsyncIterator[TokenGenerator]:
    async with case.make(checkpoint, vocabulary) as made:
        yield made


@pytest.fixture(scope="module")
def prompt(vocabulary: Vocabulary) -> list[int]:
    return vocabulary.prompt("tara", "Hello there.")


async def collect(stream: AsyncIterator[TokenChunk]) -> tuple[list[int], FinishReason]:
    """All ids of a request and how it ended, after checking the shape of its chunks."""
    ids: list[int] = []
    finish: FinishReason | None = None
    async for chunk in stream:
        assert finish is None, "a chunk after the last one"
        assert len(chunk.ids) or chunk.finish_reason, "an empty chunk that is not the last"
        ids += chunk.ids
        finish = chunk.finish_reason
    assert finish is not None
    return ids, finish


def assert_frames(vocabulary: Vocabulary, ids: list[int]) -> None:
    """Ids of slots 0, 1, 2, ... 6, 0, ... and nothing else."""
    slots = [place[0] if (place := slot_and_code(vocabulary, i)) else None for i in ids]
    assert slots == [n % 7 for n in range(len(ids))]


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT):
        while not holds():
            await asyncio.sleep(0.005)


async def test_it_is_a_token_generator(generator: TokenGenerator) -> None:
    assert isinstance(generator, TokenGenerator)
    assert generator.running == 0


async def test_a_request_ends_by_itself_with_whole_frames_and_without_the_stop_id(
    generator: TokenGenerator, case: Case, vocabulary: Vocabulary, prompt: list[int]
) -> None:
    ids, finish = await collect(
        generator.generate(prompt, replace(case.sampling, max_tokens=1900), "whole")
    )
    assert finish == "stop"
    assert len(ids) % 7 == 0
    assert ids
    assert_frames(vocabulary, ids)


@pytest.mark.parametrize("limit", [1, 5, 14])
async def test_max_tokens_is_exact_and_finishes_with_length(
    generator: TokenGenerator, case: Case, vocabulary: Vocabulary, prompt: list[int], limit: int
) -> None:
    options = replace(case.sampling, max_tokens=limit, temperature=HOT)
    ids, finish = await collect(generator.generate(prompt, options, f"limit{limit}"))
    assert (len(ids), finish) == (limit, "length")


async def test_equal_seeds_give_equal_ids_and_others_do_not(
    generator: TokenGenerator, case: Case, prompt: list[int]
) -> None:
    if not case.seeded:
        pytest.skip("this generator promises nothing for seeds")

    async def run(seed: int, name: str) -> list[int]:
        options = replace(case.sampling, seed=seed, max_tokens=21)
        return (await collect(generator.generate(prompt, options, name)))[0]

    first, again, other = [await run(seed, name) for seed, name in ((7, "a"), (7, "b"), (8, "c"))]
    assert first == again
    assert first != other


async def test_temperature_zero_is_greedy(
    generator: TokenGenerator, case: Case, prompt: list[int]
) -> None:
    options = replace(case.sampling, temperature=0.0, seed=None, max_tokens=14)
    first = await collect(generator.generate(prompt, options, "greedy1"))
    assert first == await collect(generator.generate(prompt, options, "greedy2"))


async def test_thirty_two_requests_at_once_each_get_their_own_frames(
    generator: TokenGenerator, case: Case, vocabulary: Vocabulary
) -> None:
    async def run(number: int) -> None:
        await asyncio.sleep(number * 0.002)
        text = vocabulary.prompt("tara", "Hello. " * (1 + number % 5))
        options = replace(case.sampling, seed=None, max_tokens=35 + number)
        ids, finish = await collect(generator.generate(text, options, f"many{number}"))
        assert_frames(vocabulary, ids)
        assert finish == ("length" if len(ids) == 35 + number else "stop")

    async with asyncio.timeout(WAIT):
        await asyncio.gather(*(run(number) for number in range(32)))
    await until(lambda: generator.running == 0)


async def test_ids_arrive_while_others_are_still_to_come(
    generator: TokenGenerator, case: Case, prompt: list[int]
) -> None:
    # So long a request that no stall of the machine lets all of it arrive at once.
    options = replace(case.sampling, max_tokens=1900, temperature=HOT)
    stream = generator.generate(prompt, options, "early")
    for _ in range(3):
        chunk = await anext(stream)
        assert chunk.ids
        assert chunk.finish_reason is None
    await stream.aclose()  # type: ignore[attr-defined]
    await until(lambda: generator.running == 0)


async def test_a_late_consumer_gets_all_ids(
    generator: TokenGenerator, case: Case, vocabulary: Vocabulary, prompt: list[int]
) -> None:
    options = replace(case.sampling, max_tokens=70)
    stream = generator.generate(prompt, options, "late")

    async def late() -> AsyncIterator[TokenChunk]:
        yield await anext(stream)
        await until(lambda: generator.running == 0)
        async for chunk in stream:
            yield chunk

    # After a stall everything is in the first chunk, the finish with it.
    ids, finish = await collect(late())
    assert_frames(vocabulary, ids)
    assert finish in ("length", "stop")


async def test_closing_the_iterator_frees_the_place(
    generator: TokenGenerator, case: Case, prompt: list[int]
) -> None:
    options = replace(case.sampling, max_tokens=1900, temperature=HOT)
    stream = generator.generate(prompt, options, "closed")
    await anext(stream)
    assert generator.running == 1
    await stream.aclose()  # type: ignore[attr-defined]
    await until(lambda: generator.running == 0)
    # Its name is free again at once.
    assert await collect(generator.generate(prompt, replace(options, max_tokens=3), "closed"))


async def test_cancelling_the_consumer_frees_the_place(
    generator: TokenGenerator, case: Case, prompt: list[int]
) -> None:
    options = replace(case.sampling, max_tokens=1900, temperature=HOT)
    tasks = [
        asyncio.create_task(collect(generator.generate(prompt, options, f"cancelled{n}")))
        for n in range(4)
    ]
    await until(lambda: generator.running == 4)
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    await until(lambda: generator.running == 0)


async def test_an_iterator_that_is_never_started_takes_no_place(
    generator: TokenGenerator, case: Case, prompt: list[int]
) -> None:
    stream = generator.generate(prompt, case.sampling, "unused")
    await stream.aclose()  # type: ignore[attr-defined]
    assert generator.running == 0
    await collect(generator.generate(prompt, replace(case.sampling, max_tokens=2), "unused"))


async def test_bad_requests_are_refused_and_others_are_not_affected(
    generator: TokenGenerator, case: Case, vocabulary: Vocabulary, prompt: list[int]
) -> None:
    good = asyncio.create_task(
        collect(generator.generate(prompt, replace(case.sampling, max_tokens=70), "good"))
    )
    await until(lambda: generator.running == 1 or good.done())
    for number, (ids, options) in enumerate(
        (
            ([], case.sampling),
            ([*prompt, -1], case.sampling),
            ([*prompt, vocabulary.size], case.sampling),
            (prompt * 400, case.sampling),
            (prompt, replace(case.sampling, temperature=-1.0)),
            (prompt, replace(case.sampling, temperature=float("nan"))),
            (prompt, replace(case.sampling, top_p=0.0)),
            (prompt, replace(case.sampling, top_p=1.5)),
            (prompt, replace(case.sampling, repetition_penalty=0.0)),
            (prompt, replace(case.sampling, max_tokens=0)),
        )
    ):
        with pytest.raises(InvalidOptions):
            await collect(generator.generate(ids, options, f"bad{number}"))
    ids, _ = await good
    assert_frames(vocabulary, ids)


async def test_a_request_id_in_use_is_refused(
    generator: TokenGenerator, case: Case, prompt: list[int]
) -> None:
    options = replace(case.sampling, max_tokens=1900, temperature=HOT)
    stream = generator.generate(prompt, options, "twice")
    await anext(stream)
    with pytest.raises(InvalidOptions, match="twice"):
        await collect(generator.generate(prompt, case.sampling, "twice"))
    await stream.aclose()  # type: ignore[attr-defined]
    await until(lambda: generator.running == 0)


@on_a_real_server
async def test_a_server_reads_a_prompt_of_text_as_the_same_ids(
    generator: TokenGenerator, case: Case, checkpoint: Path, vocabulary: Vocabulary
) -> None:
    """What is sent to servers that take no ids, read by a real server's tokenizer."""
    url = _urls[checkpoint]
    prompt = vocabulary.prompt("tara", "Déjà vu - 5 < 6, “quoted”, ... \n<laugh> 你好 🙂")
    body = {
        "model": "orpheus",
        "prompt": vocabulary.decode(prompt),
        "max_tokens": 1,
        "add_special_tokens": False,
        "return_token_ids": True,
    }
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {API_KEY}"}) as session,
        session.post(f"{url}/v1/completions", json=body) as response,
    ):
        answer = await response.json()
    assert answer["choices"][0]["prompt_token_ids"] == prompt
    sampling = replace(case.sampling, max_tokens=70)
    async with on_server(url, vocabulary, API_KEY, CompletionsOptions(prompt="text")) as as_text:
        ids, _ = await collect(as_text.generate(prompt, sampling, "text"))
    assert_frames(vocabulary, ids)
    assert ids == (await collect(generator.generate(prompt, sampling, "ids")))[0]


@on_a_real_server
async def test_text_of_a_server_that_gives_no_ids_is_the_same_ids(
    generator: TokenGenerator,
    case: Case,
    checkpoint: Path,
    vocabulary: Vocabulary,
    prompt: list[int],
) -> None:
    sampling = replace(case.sampling, max_tokens=1900)
    no_ids = CompletionsOptions(extra_body={"return_token_ids": False})
    async with on_server(_urls[checkpoint], vocabulary, API_KEY, no_ids) as as_text:
        found = await collect(as_text.generate(prompt, sampling, "no-ids"))
    assert found[1] == "stop"
    assert found == await collect(generator.generate(prompt, sampling, "with-ids"))


@on_a_real_server
async def test_a_server_speaks_with_an_adapter_of_its_own(
    generator: TokenGenerator, case: Case, checkpoint: Path, prompt: list[int]
) -> None:
    greedy = replace(case.sampling, temperature=0.0, max_tokens=21)
    found = await collect(generator.generate(prompt, greedy, "sam", adapter="sam"))
    assert found == (_frames[checkpoint] * 3, "length")
    with pytest.raises(InvalidOptions, match="loaded are: sam"):
        await collect(generator.generate(prompt, greedy, "else", adapter="else"))


@on_a_real_server
async def test_a_server_requires_its_key(
    generator: TokenGenerator, checkpoint: Path, vocabulary: Vocabulary
) -> None:
    for wrong in (None, "another"):
        with pytest.raises(InvalidOptions, match="api key"):
            async with on_server(_urls[checkpoint], vocabulary, wrong):
                pass


async def metric(session: aiohttp.ClientSession, checkpoint: Path, name: str) -> float:
    """Of the real server, which answers late while it is busy."""
    async with session.get(f"{_urls[checkpoint]}/metrics") as response:
        rows = (await response.text()).splitlines()
    (row,) = [row for row in rows if row.startswith(f"vllm:{name}{{")]
    return float(row.rsplit(" ", 1)[1])


@on_a_real_server
async def test_closing_the_iterator_ends_the_request_on_the_server(
    generator: TokenGenerator, case: Case, checkpoint: Path, prompt: list[int]
) -> None:
    options = replace(case.sampling, max_tokens=1900, temperature=HOT)
    async with aiohttp.ClientSession() as session, asyncio.timeout(WAIT):
        before = await metric(session, checkpoint, "generation_tokens_total")
        streams = [generator.generate(prompt, options, f"left{number}") for number in range(3)]
        for stream in streams:
            await anext(stream)
        for stream in streams:
            await stream.aclose()  # type: ignore[attr-defined]
        last, now = -1.0, 0.0
        while now != last or await metric(session, checkpoint, "num_requests_running"):
            await asyncio.sleep(0.2)
            last, now = now, await metric(session, checkpoint, "generation_tokens_total")
    assert 0 < now - before < 3 * options.max_tokens


@on_a_real_server
async def test_a_server_serves_the_urgent_first(
    generator: TokenGenerator,
    case: Case,
    checkpoint: Path,
    vocabulary: Vocabulary,
    prompt: list[int],
) -> None:
    told = CompletionsOptions(priorities=True, connect_timeout_s=WAIT, silence_timeout_s=WAIT)
    long = replace(case.sampling, max_tokens=1900, temperature=HOT)
    short = replace(long, max_tokens=7)

    async def begun(served: TokenGenerator, session: aiohttp.ClientSession) -> list[str]:
        """The order in which two began that had waited together; the urgent one came last. Empty if
        they did not wait together."""
        found: list[str] = []

        async def run(name: str, priority: int) -> None:
            async with aclosing(served.generate(prompt, short, name, priority=priority)) as ids:  # type: ignore[type-var]
                await anext(ids)
                found.append(name)

        # They hold all places until the two wait.
        names = [f"holder{number}" for number in range(VLLM_PLACES)]
        async with AsyncExitStack() as held, asyncio.TaskGroup() as group:
            for name in names:
                holder = served.generate(prompt, long, name)
                await held.enter_async_context(aclosing(holder))  # type: ignore[type-var]
                await anext(holder)
            for number, (name, priority) in enumerate([("ahead", 1), ("urgent", 0)], 1):
                group.create_task(run(name, priority))
                while (
                    not found and await metric(session, checkpoint, "num_requests_waiting") < number
                ):
                    await asyncio.sleep(0.05)
                if found:  # a holder ended before
                    return []
            await holder.aclose()  # type: ignore[attr-defined]
            while len(found) < 2:
                await asyncio.sleep(0.01)
        return found

    async with (
        asyncio.timeout(WAIT),
        aiohttp.ClientSession() as session,
        on_server(_urls[checkpoint], vocabulary, API_KEY, told) as served,
    ):
        while not (order := await begun(served, session)):
            pass
    assert order == ["urgent", "ahead"]


async def test_closing_the_generator_ends_what_runs_with_an_error(
    case: Case, checkpoint: Path, vocabulary: Vocabulary, prompt: list[int]
) -> None:
    async with case.make(checkpoint, vocabulary) as generator:
        options = replace(case.sampling, max_tokens=1900, temperature=HOT)
        tasks = [
            asyncio.create_task(collect(generator.generate(prompt, options, f"running{n}")))
            for n in range(3)
        ]
        await until(lambda: generator.running == 3)
        await generator.aclose()
        await generator.aclose()
        async with asyncio.timeout(WAIT):
            results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [EngineDied] * 3
        assert generator.running == 0
        with pytest.raises(EngineDied):
            await collect(generator.generate(prompt, case.sampling, "after"))
