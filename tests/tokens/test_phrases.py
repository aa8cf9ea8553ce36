"""The phrase cache around a real generator: what is replayed, what is kept, for how long."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orpheus_plugin.errors import InvalidOptions
from orpheus_plugin.tokens.base import SamplingParams, TokenChunk
from orpheus_plugin.tokens.phrases import CachedGenerator, CacheOptions, PhraseCache, fingerprint
from orpheus_plugin.tokens.torch.generator import TorchLlama
from orpheus_plugin.tokens.vocabulary import Vocabulary
from tests.support.checkpoints import SMALL_TEXT, crafted_checkpoint
from tests.support.generators import Wrapper

SAMPLING = SamplingParams(max_tokens=1_000)


class Counted(Wrapper[TorchLlama]):
    """Counts the requests that reach the model."""

    requests = 0

    def passed(
        self, request_id: str, chunks: AsyncIterator[TokenChunk]
    ) -> AsyncIterator[TokenChunk]:
        self.requests += 1
        return chunks


class Speaker:
    """A cached generator of a crafted model, and how it is asked."""

    def __init__(self, model: Path, inner: Counted, cache: PhraseCache) -> None:
        self.vocabulary = Vocabulary.load(model)
        self.inner = inner
        self.cache = cache
        self.generator = CachedGenerator(inner, cache)
        self._count = 0

    async def say(
        self, text: str = "Hi.", voice: str = "tara", id_: str = "", **sampling: Any
    ) -> tuple[int, ...]:
        self._count += 1
        ids: list[int] = []
        last = None
        async for chunk in self.generator.generate(
            self.vocabulary.prompt(voice, text),
            replace(SAMPLING, **sampling),
            id_ or f"request-{self._count}",
        ):
            assert last is None
            ids += chunk.ids
            last = chunk.finish_reason
        assert last == ("length" if "max_tokens" in sampling else "stop")
        return tuple(ids)

    def again(self, **options: Any) -> Speaker:
        """The same model with another cache."""
        cache = PhraseCache(CacheOptions(**options), "model")
        cache.open()
        return Speaker(self.model, self.inner, cache)

    @property
    def model(self) -> Path:
        return crafted_checkpoint(text=SMALL_TEXT)


def files_of(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.fixture
async def speaker() -> AsyncIterator[Speaker]:
    model = crafted_checkpoint(text=SMALL_TEXT)
    vocabulary = Vocabulary.load(model)
    inner = Counted(TorchLlama(model, vocabulary, max_streams=4, device="cpu"))
    made = Speaker(model, inner, PhraseCache(CacheOptions(), "model"))
    await made.generator.start()
    yield made
    await made.generator.aclose()


async def test_with_a_seed_the_second_time_is_a_replay_of_the_first(speaker: Speaker) -> None:
    first = await speaker.say(seed=4)
    assert await speaker.say(seed=4) == first
    assert speaker.inner.requests == 1
    load = speaker.cache.load()
    assert (load.hits, load.misses, load.hit_ids) == (1, 1, len(first))
    assert load.hit_s == pytest.approx(len(first) / 7 * 2048 / 24_000)


async def test_without_a_seed_takes_are_made_and_then_played_in_turns(speaker: Speaker) -> None:
    takes = [await speaker.say() for _ in range(3)]
    assert len(set(takes)) == 3 == speaker.inner.requests
    played = [await speaker.say() for _ in range(12)]
    assert speaker.inner.requests == 3
    assert set(played) == set(takes)
    assert all(a != b for a, b in itertools.pairwise(played))


@pytest.mark.parametrize(
    "other",
    [
        {"text": "Ho."},
        {"voice": "leo"},
        {"seed": 2},
        {"temperature": 0.9},
        {"top_p": 0.5},
        {"repetition_penalty": 1.3},
    ],
)
async def test_another_voice_text_or_sampling_is_another_phrase(
    speaker: Speaker, other: dict[str, Any]
) -> None:
    await speaker.say(seed=1)
    await speaker.say(**{"seed": 1, **other})
    assert speaker.inner.requests == 2
    assert speaker.cache.load().phrases == 2


async def test_another_model_has_phrases_of_its_own(tmp_path: Path) -> None:
    prompt = [1, 2, 3]
    keys = {
        PhraseCache(CacheOptions(), model).key(prompt, SAMPLING, adapter)
        for model in ("a", "b")
        for adapter in (None, "alice")
    }
    assert len(keys) == 4
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"1")
    before = fingerprint("a", tmp_path)
    file.write_bytes(b"12")
    assert fingerprint("a", tmp_path) != before


async def test_a_phrase_cut_short_or_interrupted_is_not_kept(speaker: Speaker) -> None:
    await speaker.say(seed=1, max_tokens=21)
    prompt = speaker.vocabulary.prompt("tara", "Hi.")
    left = speaker.generator.generate(prompt, replace(SAMPLING, seed=3), "left")
    await anext(aiter(left))
    await left.aclose()  # type: ignore[attr-defined]
    assert speaker.cache.load().phrases == 0


@pytest.mark.parametrize("replayed", [False, True])
async def test_an_unusable_take_is_forgotten(speaker: Speaker, replayed: bool) -> None:
    await speaker.say(seed=1, id_="a")
    if replayed:
        await speaker.say(seed=1, id_="b")
    speaker.generator.discard("b" if replayed else "a")
    speaker.generator.discard("unknown")
    assert speaker.cache.load().phrases == 0
    assert speaker.cache.load().bytes == 0
    await speaker.say(seed=1)
    assert speaker.inner.requests == 2


async def test_the_phrases_unused_for_longest_go_first(speaker: Speaker) -> None:
    size = 4 * len(await speaker.say("Hi.", seed=1))
    small = speaker.again(max_bytes=3 * size)
    texts = ("Hi.", "Ho.", "Hm.", "Hey.", "Hoy.")
    for text in texts:
        await small.say(text, seed=1)
        await small.say("Hi.", seed=1)  # always in use
        assert small.cache.load().bytes <= 3 * size
    before = small.inner.requests
    await small.say("Hi.", seed=1)
    assert small.inner.requests == before
    await small.say("Ho.", seed=1)
    assert small.inner.requests == before + 1


async def test_a_directory_keeps_phrases_beyond_the_process_and_no_text(
    speaker: Speaker, tmp_path: Path
) -> None:
    folder = tmp_path / "deep" / "phrases"
    first = speaker.again(directory=folder)
    said = await first.say("My name is Ada.", seed=1)
    await first.cache.settled()
    second = speaker.again(directory=folder)
    before = second.inner.requests
    assert await second.say("My name is Ada.", seed=1) == said
    assert second.inner.requests == before
    files = files_of(folder)
    assert len(files) == 1
    assert b"Ada" not in files[0].read_bytes() + str(files[0]).encode()


async def test_a_directory_stays_within_its_limit(speaker: Speaker, tmp_path: Path) -> None:
    one = speaker.again(directory=tmp_path)
    size = 4 * len(await one.say(seed=1))
    small = speaker.again(directory=tmp_path, max_bytes=2 * size)
    for seed in range(5):
        await small.say(seed=seed)
    await small.cache.settled()
    assert sum(len(file.read_bytes()) - 14 for file in files_of(tmp_path)) <= 2 * size


async def test_files_that_are_not_phrases_are_skipped(speaker: Speaker, tmp_path: Path) -> None:
    one = speaker.again(directory=tmp_path)
    await one.say(seed=1)
    await one.cache.settled()
    (file,) = files_of(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole[:-2])
    (file.parent / "notes.ids").write_text("hello")
    (file.parent / ("z" * 32 + "-0.ids")).write_bytes(whole)
    (file.parent / ("a" * 32 + "-0.ids")).symlink_to("gone")
    again = speaker.again(directory=tmp_path)
    assert again.cache.load().phrases == 0
    await again.say(seed=1)


async def test_what_cannot_be_written_is_replayed_all_the_same(
    speaker: Speaker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = speaker.again(directory=tmp_path)
    await one.say(seed=1)
    await one.cache.settled()
    (file,) = files_of(tmp_path)
    file.unlink()
    file.mkdir()  # in the way, as a full disk is
    two = speaker.again(directory=tmp_path)
    said = await two.say(seed=1)
    await two.cache.settled()
    assert "cannot write" in caplog.text
    assert files_of(tmp_path) == []
    assert await two.say(seed=1) == said


async def test_nothing_is_written_without_a_directory(
    speaker: Speaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    await speaker.say(seed=1)
    await speaker.cache.settled()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("wrong", [{"max_bytes": 0}, {"takes": 0}, {"takes": 1.5}])
def test_options_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidOptions, match="cache's"):
        CacheOptions(**wrong)


def test_a_directory_that_cannot_be_made_is_an_error_at_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = PhraseCache(CacheOptions(directory=tmp_path / "file" / "in"), "model")
    with pytest.raises(InvalidOptions, match="phrase cache's directory"):
        cache.open()
