"""A TokenGenerator that runs a model in this process: requests on the event loop, the model on a
worker's thread."""

from __future__ import annotations

import abc
import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from orpheus_plugin.errors import EngineDied, InvalidOptions
from orpheus_plugin.options import check_count
from orpheus_plugin.tokens.adapters import Adapter, index_of, read_adapters
from orpheus_plugin.tokens.base import SamplingParams, TokenChunk
from orpheus_plugin.tokens.checks import check_sampling, checked_prompt
from orpheus_plugin.tokens.llama import LlamaShape
from orpheus_plugin.tokens.vocabulary import Vocabulary
from orpheus_plugin.tokens.worker import Request, Stepper, Worker


class BatchedGenerator(abc.ABC):
    """The common part of the generators of this process; each has its own `_load`.

    Ids keep slot order by construction: at slot s only the 4096 ids of slot s can be drawn, and at
    slot 0 the stop id too. Requests beyond `max_streams` wait.

    Args:
        model_dir: config.json and weights (safetensors, or a weights-only pytorch_model.bin).
        vocabulary: the ids of that model.
        max_streams: requests running at once.
        max_context: prompt and generated ids of a request; the model's own limit holds too.
        prefill_chunk: prompt ids read in a step.
        adapters: folders of LoRA adapters by name (see `tokens.adapters`); each request has one of
            them, or none.

    Raises InvalidOptions for sizes below 1. Nothing is loaded before `start`.
    """

    def __init__(
        self,
        model_dir: Path,
        vocabulary: Vocabulary,
        *,
        max_streams: int,
        max_context: int,
        prefill_chunk: int,
        adapters: Mapping[str, Path] | None = None,
    ) -> None:
        check_count("max_streams", max_streams, 1)
        check_count("max_context", max_context, 2)
        check_count("prefill_chunk", prefill_chunk, 1)
        self._model_dir = Path(model_dir)
        self._vocabulary = vocabulary
        self._max_streams = max_streams
        self._max_context = max_context
        self._chunk = prefill_chunk
        self._adapters = dict(adapters or {})
        self._requests: dict[str, Request] = {}
        self._worker: Worker | None = None
        self._failure = EngineDied("the token generator has not been started")

    @abc.abstractmethod
    def _load(self) -> Stepper:
        """Load the weights and draw one id. Blocking, on a thread that is not the worker's."""

    def _read_adapters(self, shape: LlamaShape) -> list[Adapter]:
        return list(read_adapters(self._adapters, self._model_dir, shape).values())

    @property
    def running(self) -> int:
        """Requests that have one of the `max_streams` places now."""
        return self._worker.holding if self._worker is not None else 0

    @property
    def failure(self) -> EngineDied | None:
        """See TokenGenerator."""
        return self._failure if self._worker is None else self._worker.thread.failure

    async def start(self) -> None:
        """Load the weights and draw one id, on another thread. May be called again after `aclose`
        or a death.

        Raises ModelNotFound, BadCheckpoint (also for weights that give infinite numbers or NaN, and
        for an adapter that does not fit), or EngineDied (no memory).
        """
        if self._worker is not None:
            return
        loop = asyncio.get_running_loop()
        self._worker = Worker(
            await asyncio.to_thread(self._load),
            audio_base=self._vocabulary.audio_base,
            places=self._max_streams,
            chunk=self._chunk,
            loop=loop,
            died=self._died,
        )
        self._worker.start()

    async def aclose(self) -> None:
        """See TokenGenerator."""
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
        adapter: str | None = None,
    ) -> AsyncIterator[TokenChunk]:
        """See TokenGenerator. The request is checked here and queued at the first step of the
        iterator.

        `sampling.max_tokens` is cut to the room that the prompt leaves in the context.
        """
        worker = self._worker
        if worker is None:
            raise self._failure
        context = worker.stepper.context
        prompt = checked_prompt(prompt_ids, self._vocabulary.size, context)
        check_sampling(sampling)
        limit = min(sampling.max_tokens, context - len(prompt))
        chosen = index_of(adapter, self._adapters)
        return self._stream(Request(request_id, prompt, sampling, limit, priority, chosen))

    async def _stream(self, request: Request) -> AsyncIterator[TokenChunk]:
        worker = self._worker
        if worker is None:
            raise self._failure
        if request.request_id in self._requests:
            raise InvalidOptions(f"request {request.request_id!r} is already running")
        self._requests[request.request_id] = request
        try:
            worker.submit(request)
            while True:
                chunk = await request.take()
                yield chunk
                if chunk.finish_reason is not None:
                    return
        finally:
            del self._requests[request.request_id]
            if request.finish_reason is None:
                request.aborted = True
                worker.wake()

    def _died(self, worker: Worker, error: EngineDied) -> None:
        """End `worker` and everything on it with `error`. On the event loop."""
        worker.stop()
        if self._worker is not worker:
            return
        self._worker = None
        self._failure = error
        for request in self._requests.values():
            request.fail(error)
