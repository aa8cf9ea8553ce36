"""TorchLlama: the token generator that needs nothing but torch, with continuous batching on one thread of its own."""

from __future__ import annotations

import asyncio
import bisect
import logging
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from orpheus_plugin.errors import BadCheckpoint, EngineDied, InvalidOptions, OrpheusError
from orpheus_plugin.models.devices import compute_alone
from orpheus_plugin.tokens.base import FinishReason, SamplingParams, TokenChunk
from orpheus_plugin.tokens.checks import check_sampling, checked_prompt
from orpheus_plugin.tokens.torch.llama import STOP, Llama
from orpheus_plugin.tokens.torch.sampler import Sampler
from orpheus_plugin.tokens.torch.weights import LlamaShape, load_weights
from orpheus_plugin.tokens.vocabulary import CODES, SLOTS, Vocabulary
from orpheus_plugin.worker_thread import WorkerThread

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class _Request:
    """One generation. The worker owns `read`, `drawn` and `limit`; the event loop owns the rest but sets `aborted`."""

    request_id: str
    prompt: list[int]
    sampling: SamplingParams
    limit: int
    priority: int
    read: int = 0  # prompt ids in the cache
    drawn: int = 0  # ids generated
    aborted: bool = False
    arrived: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    error: OrpheusError | None = None
    news: asyncio.Event = field(default_factory=asyncio.Event)


_News = list[tuple[_Request, int | None, FinishReason | None]]


class TorchLlama:
    """A TokenGenerator for any Orpheus-shaped Llama checkpoint, on a CPU or a CUDA device.

    All requests share one step: each step reads up to `prefill_chunk` prompt ids of joining requests, then draws one id for
    every running request, whatever its slot. Requests join and leave between steps. Requests beyond `max_streams` wait.

    Ids keep slot order by construction: at slot s only the 4096 ids of slot s can be drawn, and at slot 0 the stop id too.
    With equal seeds a single request gives equal ids; in a batch the same random numbers meet logits that may differ in
    their last bits.

    A step costs, for B streams: one pass over the blocks' weights, `4096 * hidden` products a stream for the head, a read of
    each stream's cache up to the longest one, and some 20 operations of sampling for the whole batch. benchmarks/generator.py
    has figures. On CUDA the same code runs operation by operation (no graphs): tested there, not tuned.
    """

    def __init__(
        self,
        model_dir: Path,
        vocabulary: Vocabulary,
        *,
        max_streams: int = 16,
        max_context: int = 2048,
        device: str = "cpu",
        dtype: torch.dtype | str | None = None,
        prefill_chunk: int | None = None,
    ) -> None:
        """Nothing is loaded before `start`.

        Args:
            model_dir: config.json and weights (safetensors, or a weights-only pytorch_model.bin).
            vocabulary: the ids of that model.
            max_streams: requests running at once.
            max_context: prompt and generated ids of a request; the model's own limit holds too.
            device: "cpu", "cuda", "cuda:1", or "auto".
            dtype: of the weights. By default bfloat16 on CUDA and on CPUs with instructions for it, where the blocks
                are large enough to gain from it; else float32. On a CPU all but the matrix products is float32 always.
            prefill_chunk: prompt ids read between two steps while others run; by default 64 on a CPU, 512 on CUDA.

        Raises InvalidOptions for sizes below 1 or an unknown dtype or device.
        """
        if max_streams < 1 or max_context < 2 or (prefill_chunk is not None and prefill_chunk < 1):
            raise InvalidOptions("max_streams, max_context and prefill_chunk must be positive")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self._device = torch.device(device)
        except RuntimeError as error:
            raise InvalidOptions(f"no device {device!r}") from error
        if self._device.type == "cuda" and not torch.cuda.is_available():
            raise InvalidOptions(f"device {device!r}: torch finds no CUDA GPU on this machine")
        on_cpu = self._device.type == "cpu"
        if isinstance(dtype, str):
            named = getattr(torch, dtype, None)
            if not isinstance(named, torch.dtype):
                raise InvalidOptions(f"no dtype {dtype!r}")
            dtype = named
        self._dtype = dtype
        self._model_dir = Path(model_dir)
        self._vocabulary = vocabulary
        self._max_streams = max_streams
        self._max_context = max_context
        self._chunk = prefill_chunk or (64 if on_cpu else 512)
        self._requests: dict[str, _Request] = {}
        self._worker: _Worker | None = None
        self._failure = EngineDied("the token generator has not been started")

    @property
    def running(self) -> int:
        """Requests that hold one of the `max_streams` places now."""
        return self._worker.holding if self._worker is not None else 0

    @property
    def failure(self) -> EngineDied | None:
        """See TokenGenerator."""
        return self._failure if self._worker is None else self._worker.thread.failure

    @property
    def dtype(self) -> str:
        """Of the weights, "" before `start`."""
        weights = self._worker.model.weights.head[0] if self._worker is not None else None
        return str(weights.dtype).removeprefix("torch.") if weights is not None else ""

    async def start(self) -> None:
        """Load the weights and draw one id, on another thread. May be called again after `aclose` or a death.

        Raises ModelNotFound, BadCheckpoint (also for weights that give no finite numbers), or EngineDied (no memory).
        """
        if self._worker is not None:
            return
        loop = asyncio.get_running_loop()
        model, sampler = await asyncio.to_thread(self._load)
        self._worker = _Worker(
            model,
            sampler,
            self._vocabulary,
            self._max_streams,
            self._chunk,
            loop,
            self._died,
        )
        self._worker.start()

    async def aclose(self) -> None:
        worker = self._worker
        if worker is None:
            return
        self._died(worker, EngineDied("the token generator was closed"))
        await asyncio.to_thread(worker.join)

    def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingParams,
        request_id: str,
        *,
        priority: int = 0,
    ) -> AsyncIterator[TokenChunk]:
        """See TokenGenerator. The request is checked here and queued at the first step of the iterator.

        `sampling.max_tokens` is cut to the room that the prompt leaves in the context.
        """
        worker = self._worker
        if worker is None:
            raise self._failure
        context = worker.model.context
        prompt = checked_prompt(prompt_ids, self._vocabulary.size, context)
        check_sampling(sampling)
        limit = min(sampling.max_tokens, context - len(prompt))
        return self._stream(_Request(request_id, prompt, sampling, limit, priority))

    async def _stream(self, request: _Request) -> AsyncIterator[TokenChunk]:
        worker = self._worker
        if worker is None:
            raise self._failure
        if request.request_id in self._requests:
            raise InvalidOptions(f"request {request.request_id!r} is already running")
        self._requests[request.request_id] = request
        try:
            worker.submit(request)
            while True:
                await request.news.wait()
                request.news.clear()
                # More may come while the consumer holds a chunk: what it was told is what counts.
                ids, request.arrived = request.arrived, []
                finish, error = request.finish_reason, request.error
                if finish is not None or ids:
                    yield TokenChunk(ids, finish)
                if finish is not None:
                    return
                if error is not None:
                    raise error
        finally:
            del self._requests[request.request_id]
            if request.finish_reason is None:
                request.aborted = True
                worker.wake()

    def _load(self) -> tuple[Llama, Sampler]:
        try:
            shape = LlamaShape.read(self._model_dir)
            if self._vocabulary.size > shape.vocab:
                raise BadCheckpoint(
                    f"{self._model_dir}: {shape.vocab} ids in the model, {self._vocabulary.size} in its vocabulary"
                )
            context = min(self._max_context, shape.max_positions)
            on_cpu = self._device.type == "cpu"
            dtype = self._dtype or _best_dtype(shape, on_cpu)
            inner = torch.float32 if on_cpu else dtype
            weights = load_weights(
                self._model_dir, shape, self._vocabulary, self._device, dtype, inner
            )
            with torch.inference_mode():
                # One place more than streams: prompts are read there while the others go on.
                places = self._max_streams + 1
                model = Llama(shape, weights, streams=places, context=context, dtype=inner)
                sampler = Sampler(self._max_streams, context, self._device)
                self._warm_up(model, sampler)
        except (RuntimeError, MemoryError) as error:  # out of memory, most likely
            what = str(error).strip().partition("\n")[0]
            raise EngineDied(
                f"the model could not be loaded onto {self._device}: {what}"
            ) from error
        logger.info(
            "Torch generator: %s, %d layers of width %d, %s on %s, %d streams of %d ids",
            self._model_dir.name,
            shape.layers,
            shape.hidden,
            str(dtype).removeprefix("torch."),
            self._device,
            self._max_streams,
            context,
        )
        return model, sampler

    def _warm_up(self, model: Llama, sampler: Sampler) -> None:
        ids = torch.tensor([self._vocabulary.bos], device=self._device)
        model.prefill(self._max_streams, ids, 0)
        hidden = model.step(ids, torch.zeros_like(ids), 0, ragged=False)
        logits = model.logits(hidden, [0])
        if not torch.isfinite(logits[:, : CODES + 1]).all():
            raise BadCheckpoint(f"{self._model_dir}: the weights give no finite numbers")
        sampler.join(0, SamplingParams(seed=0))
        sampler.draw(logits, [0])

    def _died(self, worker: _Worker, error: EngineDied) -> None:
        """End `worker` and everything on it with `error`. On the event loop."""
        worker.stop()
        if self._worker is not worker:
            return
        self._worker = None
        self._failure = error
        for request in self._requests.values():
            if request.finish_reason is None:
                request.error = error
                request.news.set()


class _Worker:
    """The thread that steps. Its places 0 .. n-1 hold the running requests, without gaps."""

    def __init__(
        self,
        model: Llama,
        sampler: Sampler,
        vocabulary: Vocabulary,
        places: int,
        chunk: int,
        loop: asyncio.AbstractEventLoop,
        died: Callable[[_Worker, EngineDied], None],
    ) -> None:
        self.model = model
        self._sampler = sampler
        self._vocabulary = vocabulary
        self._limit = places
        self._chunk = chunk
        self._loop = loop
        self._died = died
        self._changed = threading.Condition()
        self._waiting: list[_Request] = []  # by priority, then as they came
        self._stopping = False
        self._joining: _Request | None = None
        self._running: list[_Request] = []
        self._ids = torch.zeros(places, dtype=torch.int64, device=model.device)
        self._positions = torch.zeros_like(self._ids)
        self._bases = vocabulary.audio_base + CODES * torch.arange(SLOTS, device=model.device)
        self.thread = WorkerThread(
            "orpheus-tokens", "the token generator", self._work, self._tell_death
        )
        self.start = self.thread.start
        self.join = self.thread.join

    @property
    def holding(self) -> int:
        return len(self._running) + (self._joining is not None)

    def submit(self, request: _Request) -> None:
        with self._changed:
            bisect.insort(self._waiting, request, key=lambda waiting: waiting.priority)
            self._changed.notify()

    def wake(self) -> None:
        with self._changed:
            self._changed.notify()

    def stop(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def _work(self) -> None:
        if self.model.device.type == "cpu":
            compute_alone()
        with torch.inference_mode():
            while self._wait():
                with self.thread:
                    self._leave_aborted()
                    self._join_waiting()
                    if self._running:
                        self._tell(self._step())

    def _tell_death(self, error: EngineDied) -> None:
        self._call(self._died, self, error)

    def _wait(self) -> bool:
        """Until there is something to do. False: to stop."""
        with self._changed:
            while not (self._stopping or self._running or self._joining or self._waiting):
                self._changed.wait()
            return not self._stopping

    def _leave_aborted(self) -> None:
        for place in reversed(range(len(self._running))):
            if self._running[place].aborted:
                self._leave(place)
        if self._joining is not None and self._joining.aborted:
            self._joining = None
        with self._changed:
            if any(request.aborted for request in self._waiting):
                self._waiting = [r for r in self._waiting if not r.aborted]

    def _join_waiting(self) -> None:
        """Read prompts, up to a chunk of ids (without others running, up to one whole prompt)."""
        room = self._chunk
        while room > 0 and len(self._running) < self._limit:
            if self._joining is None:
                with self._changed:
                    if not self._waiting:
                        return
                    self._joining = self._waiting.pop(0)
            request = self._joining
            # The last prompt id is left for the first step, which draws from it.
            part = request.prompt[request.read : -1][:room]
            if part:
                ids = torch.tensor(part, device=self.model.device)
                self.model.prefill(self._limit, ids, request.read)
                request.read += len(part)
            if request.read == len(request.prompt) - 1:
                self._joining = None
                self._join(request)
            room -= len(part) + 1

    def _join(self, request: _Request) -> None:
        place = len(self._running)
        self._running.append(request)
        self.model.move(self._limit, place, request.read)
        self._sampler.join(place, request.sampling)
        self._ids[place] = request.prompt[-1]
        self._positions[place] = request.read

    def _leave(self, place: int) -> None:
        """Free a place; the last request moves into it."""
        last = len(self._running) - 1
        moved = self._running.pop()
        if place != last:
            self._running[place] = moved
            self.model.move(last, place, moved.read + moved.drawn)
            self._sampler.move(last, place)
            self._ids[place] = self._ids[last]
            self._positions[place] = self._positions[last]
        self.model.clear(last)

    def _step(self) -> _News:
        """Draw one id for every running request."""
        running = self._running
        size = len(running)
        counts = [request.drawn for request in running]
        places = [request.read + request.drawn for request in running]
        longest = max(places)
        ids, positions = self._ids[:size], self._positions[:size]
        hidden = self.model.step(ids, positions, longest, ragged=min(places) != longest)
        slots = [count % SLOTS for count in counts]
        drawn = self._sampler.draw(self.model.logits(hidden, slots), counts)
        torch.add(drawn, self._bases[slots], out=ids)
        positions += 1
        news: _News = []
        base = self._vocabulary.audio_base
        codes = drawn.tolist()
        for place in reversed(range(size)):
            request, code = running[place], codes[place]
            request.drawn += 1
            if code == STOP:
                news.append((request, None, "stop"))
            elif request.drawn >= request.limit:
                news.append((request, base + CODES * slots[place] + code, "length"))
            else:
                news.append((request, base + CODES * slots[place] + code, None))
                continue
            self._leave(place)
        return news

    def _tell(self, news: _News) -> None:
        self._call(_deliver, news)

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            if not self._loop.is_closed():  # else nobody listens any more
                raise
            self._stopping = True


def _best_dtype(shape: LlamaShape, on_cpu: bool) -> torch.dtype:
    """bfloat16 halves what a step reads, but costs some 15 us more a product on a CPU: small blocks stay float32."""
    if not on_cpu:
        return torch.bfloat16
    has_bf16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return torch.bfloat16 if has_bf16 and shape.hidden >= 192 else torch.float32


def _deliver(news: _News) -> None:
    """Hand a step's ids to their requests. On the event loop."""
    for request, token_id, finish in news:
        if token_id is not None:
            request.arrived.append(token_id)
        request.finish_reason = finish
        request.news.set()
