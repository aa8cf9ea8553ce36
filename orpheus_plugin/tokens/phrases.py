"""The phrase cache: ids that were generated once are replayed for the same request.

A token generator around another one. The codec, trimming, joins, word times and interruptions do
not depend on whether ids are new. A take is kept when its generation ended by itself; its key is a
hash of the model, the prompt (voice and text), the sampling and the seed, so that no text is kept.
Without a seed, several takes of a phrase are made before one is replayed, and the same take is not
replayed twice in a row.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import random
import re
from array import array
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from orpheus_plugin.errors import EngineDied, InvalidOptions
from orpheus_plugin.options import check_count
from orpheus_plugin.tokens.base import SamplingParams, TokenChunk, TokenGenerator
from orpheus_plugin.tokens.vocabulary import SLOTS

logger = logging.getLogger(__name__)

FIRST_IDS = 4 * SLOTS
"""Ids of the first sound: a replay gives them first, then lets other tasks run, then gives the
rest."""

REMEMBERED = 256
"""The number of last requests whose take is known."""

FRAME_S = 2_048 / 24_000
"""Seconds of audio from a frame of ids."""

_MAGIC = b"orpheus-ids 1\n"
_NAME = re.compile(r"[0-9a-f]{32}-\d+\.ids")


@dataclass(frozen=True, slots=True)
class CacheOptions:
    """Limits of the phrase cache.

    Attributes:
        max_bytes: of ids, some 340 a second of speech; the least recently used phrases are removed
            first.
        directory: where takes are kept after this process; None keeps them in memory only.
        takes: of a phrase without a seed, before one of them is replayed.
        prime: texts that an engine puts into it when it starts, with the voice and the sampling of
            a turn without options.
    """

    max_bytes: int = 64 * 2**20
    directory: Path | None = None
    takes: int = 3
    prime: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_count("the cache's max_bytes", self.max_bytes, 1)
        check_count("the cache's takes", self.takes, 1)
        object.__setattr__(self, "prime", tuple(self.prime))


@dataclass(frozen=True, slots=True)
class CacheLoad:
    """Figures of the phrase cache since the engine was made.

    Attributes:
        hits, misses: requests that were replayed, and that were generated.
        hit_ids: ids that were replayed.
        bytes, phrases: kept now.
    """

    hits: int = 0
    misses: int = 0
    hit_ids: int = 0
    bytes: int = 0
    phrases: int = 0

    @property
    def hit_s(self) -> float:
        """Seconds of audio that were replayed."""
        return self.hit_ids / SLOTS * FRAME_S


class PhraseCache:
    """The takes of one model's phrases, those used last at the end. Used on one event loop.

    A look-up or an entry costs some 10 us; files are written and removed on other threads.

    Args:
        options: what to keep.
        model: identifies the model, as `fingerprint` does.
    """

    def __init__(self, options: CacheOptions, model: str) -> None:
        self.options = options
        self._model = model.encode()
        self._takes: OrderedDict[bytes, list[array[int]]] = OrderedDict()
        self._last: dict[bytes, int] = {}  # the take that was replayed last
        self._bytes = 0
        self._hits = self._misses = self._hit_ids = 0
        self._writing: set[asyncio.Task[None]] = set()
        self._folder: Path | None = None
        if options.directory is not None:
            self._folder = Path(options.directory) / hashlib.sha256(self._model).hexdigest()[:16]

    def load(self) -> CacheLoad:
        """From any thread."""
        return CacheLoad(self._hits, self._misses, self._hit_ids, self._bytes, len(self._takes))

    def open(self) -> None:
        """Read the directory, if there is one. Blocking. Raises InvalidOptions if it cannot be
        made."""
        if self._folder is None or self._takes:
            return
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            files = sorted(self._folder.glob("*.ids"), key=_written_at)
        except OSError as error:
            raise InvalidOptions(f"the phrase cache's directory: {error}") from error
        for file in files:
            ids = _read(file)
            if ids is None or not _NAME.fullmatch(file.name):
                logger.warning("%s is not a phrase of this cache; it is skipped", file)
            else:
                self._keep(bytes.fromhex(file.name[:32]), ids)
        self._shrink()

    def key(
        self, prompt_ids: Sequence[int], sampling: SamplingParams, adapter: str | None
    ) -> bytes:
        """16 bytes that identify a request."""
        asked = (
            sampling.temperature,
            sampling.top_p,
            sampling.repetition_penalty,
            sampling.max_tokens,
            sampling.seed,
            adapter,
        )
        digest = hashlib.blake2b(self._model, digest_size=16)
        digest.update(repr(asked).encode())
        digest.update(array("q", prompt_ids).tobytes())
        return digest.digest()

    def take(self, key: bytes, seed: int | None) -> array[int] | None:
        """A take to replay; None while there are too few."""
        takes = self._takes.get(key, [])
        if len(takes) < (self.options.takes if seed is None else 1):
            self._misses += 1
            return None
        self._takes.move_to_end(key)
        others = [n for n in range(len(takes)) if n != self._last.get(key)] or [0]
        self._last[key] = number = random.choice(others)
        self._hits += 1
        self._hit_ids += len(takes[number])
        return takes[number]

    def add(self, key: bytes, ids: array[int], seed: int | None) -> None:
        """Keep a take, unless there are enough."""
        if len(self._takes.get(key, [])) >= (self.options.takes if seed is None else 1):
            return
        size = len(ids) * ids.itemsize
        if size > self.options.max_bytes:
            return
        number = self._keep(key, ids)
        self._shrink()
        if self._folder is not None:
            self._later(_write, self._folder / f"{key.hex()}-{number}.ids", ids)

    def drop(self, key: bytes) -> None:
        """Forget a phrase of which a take was not usable."""
        if takes := self._takes.pop(key, None):
            self._forget(key, takes)

    async def settled(self) -> None:
        """Returns when all files are written."""
        while self._writing:
            await asyncio.wait(self._writing)

    def _keep(self, key: bytes, ids: array[int]) -> int:
        takes = self._takes.setdefault(key, [])
        takes.append(ids)
        self._takes.move_to_end(key)
        self._bytes += len(ids) * ids.itemsize
        return len(takes) - 1

    def _shrink(self) -> None:
        while self._bytes > self.options.max_bytes:
            self._forget(*self._takes.popitem(last=False))

    def _forget(self, key: bytes, takes: list[array[int]]) -> None:
        self._last.pop(key, None)
        self._bytes -= sum(len(ids) * ids.itemsize for ids in takes)
        if self._folder is not None:
            self._later(_remove, self._folder, key.hex())

    def _later(self, work: Callable[..., None], *args: object) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # while it is opened
            work(*args)
            return
        task = loop.create_task(asyncio.to_thread(work, *args))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)


class CachedGenerator:
    """A TokenGenerator that asks the phrase cache first. See TokenGenerator."""

    def __init__(self, inner: TokenGenerator, cache: PhraseCache) -> None:
        self.inner = inner
        self.cache = cache
        self._given: OrderedDict[str, bytes] = OrderedDict()  # request -> key
        self._replaying = 0

    async def start(self) -> None:
        await self.inner.start()

    async def aclose(self) -> None:
        await self.inner.aclose()
        await self.cache.settled()

    @property
    def running(self) -> int:
        return self.inner.running + self._replaying

    @property
    def failure(self) -> EngineDied | None:
        return self.inner.failure

    def discard(self, request_id: str) -> None:
        """Forget the phrase of a request whose ids turned out to be unusable."""
        if (key := self._given.pop(request_id, None)) is not None:
            self.cache.drop(key)

    async def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingParams,
        request_id: str,
        *,
        priority: int = 0,
        adapter: str | None = None,
    ) -> AsyncIterator[TokenChunk]:
        if self.inner.failure is not None:
            raise self.inner.failure
        key = self.cache.key(prompt_ids, sampling, adapter)
        self._given[request_id] = key
        if len(self._given) > REMEMBERED:
            self._given.popitem(last=False)
        replay = self.cache.take(key, sampling.seed)
        if replay is not None:
            self._replaying += 1
            try:
                yield TokenChunk(replay[:FIRST_IDS])
                await asyncio.sleep(0)
                yield TokenChunk(replay[FIRST_IDS:], "stop")
            finally:
                self._replaying -= 1
            return
        made = array("I")
        tokens = cast(
            "AsyncGenerator[TokenChunk, None]",
            self.inner.generate(
                prompt_ids, sampling, request_id, priority=priority, adapter=adapter
            ),
        )
        async with contextlib.aclosing(tokens):
            async for chunk in tokens:
                made.extend(chunk.ids)
                if chunk.finish_reason == "stop" and len(made) >= SLOTS:
                    self.cache.add(key, made, sampling.seed)
                yield chunk


def fingerprint(name: str, *folders: Path) -> str:
    """A model's name with the names, sizes and times of its files. Blocking."""
    parts = [name]
    for folder in folders:
        for file in sorted(folder.rglob("*")) if folder.is_dir() else [folder]:
            with contextlib.suppress(OSError):
                if file.is_file():
                    stat = file.stat()
                    parts.append(f"{file.name} {stat.st_size} {stat.st_mtime_ns}")
    return "\n".join(parts)


def _written_at(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except FileNotFoundError:  # another process that shares the directory has forgotten it
        return 0.0


def _read(file: Path) -> array[int] | None:
    with contextlib.suppress(OSError, ValueError):
        data = file.read_bytes()
        if data.startswith(_MAGIC):
            ids = array("I")
            ids.frombytes(data[len(_MAGIC) :])
            return ids if len(ids) >= SLOTS else None
    return None


def _write(file: Path, ids: array[int]) -> None:
    part = file.with_suffix(".part")
    try:
        part.write_bytes(_MAGIC + ids.tobytes())
        part.replace(file)
    except OSError as error:
        logger.warning("the phrase cache cannot write %s: %s", file, error)
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)  # a full disk gets some of it back


def _remove(folder: Path, key: str) -> None:
    for file in folder.glob(f"{key}-*.ids"):
        file.unlink(missing_ok=True)
