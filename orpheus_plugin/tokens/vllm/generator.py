"""Tokens from vLLM's AsyncLLM: one engine in processes of its own, which batches all requests of
this process.

Tested with vLLM 0.32: its CPU build in every test run, its CUDA build twice on an H200 (CUDA
graphs, FlashAttention 3, restricted head; not fp8, and without FlashInfer). The figures of those
runs are in benchmarks/results/gpu_*.json.

vLLM starts its processes by spawning. A script that starts this generator at import time, without
`if __name__ == "__main__":`, would start itself again in each of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from orpheus_plugin import worker_thread
from orpheus_plugin.errors import BadCheckpoint, EngineDied, GenerationFailed, InvalidOptions
from orpheus_plugin.tokens.adapters import index_of, read_adapters
from orpheus_plugin.tokens.base import SamplingParams, TokenChunk
from orpheus_plugin.tokens.checks import check_sampling, checked_prompt
from orpheus_plugin.tokens.llama import LlamaShape
from orpheus_plugin.tokens.vllm import plugin, process, request
from orpheus_plugin.tokens.vllm.options import VllmOptions, compact_sampler, engine_args
from orpheus_plugin.tokens.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

_LOOK_S = 0.25
"""Seconds between checks of vLLM's health while a call into the worker is unanswered."""
_WARM_BATCHES = (1, 2, 4, 8, 16, 32, 64, 65)
"""Requests of the warm-up rounds on a GPU. vLLM's own sampling kernels, used without FlashInfer and
for every step that has a seed in it, are compiled anew for each number of programs that share a row
(vllm/v1/sample/ops/topk_topp_triton.py): that doubles when the requests halve, and over 64 there is
another kernel. One such compilation takes 2 to 8 s on an H200, during which all turns wait."""


class VllmGenerator:
    """A TokenGenerator on vLLM. After EngineDied, restart it with `aclose()` and `start()` on the
    same object.

    Args:
        model_dir: directory of the language model (config.json, *.safetensors).
        vocabulary: its ids.
        options: how vLLM runs.
        worker: qualified name of a subclass of OrpheusWorker, for more methods in vLLM's worker.
        max_streams: in place of `options.max_streams`.
        device: "cpu", "cuda" or "cuda:N", as torch counts the GPUs of CUDA_VISIBLE_DEVICES; None is
            the device the installed vLLM was built for.
        adapters: folders of LoRA adapters by name (see `tokens.adapters`); each request has one of
            them, or none. All of them lie beside the model on its device.

    Attributes:
        loop: the event loop that called `start`, the only one on which vLLM may be used.
    """

    def __init__(
        self,
        model_dir: str | Path,
        vocabulary: Vocabulary,
        options: VllmOptions | None = None,
        *,
        worker: str = plugin.WORKER,
        max_streams: int | None = None,
        device: str | None = None,
        adapters: Mapping[str, Path] | None = None,
    ) -> None:
        options = options or VllmOptions()
        self.options = options if max_streams is None else replace(options, max_streams=max_streams)
        self._model_dir = Path(model_dir)
        self._vocabulary = vocabulary
        self.worker = worker
        self._device = device
        self._adapters = dict(adapters or {})
        self.loop: asyncio.AbstractEventLoop | None = None
        self._engine: Any = None
        self._requests: set[str] = set()
        self._moved_at = 0.0
        self._starting = asyncio.Lock()

    async def start(self) -> None:
        """Start vLLM's processes, load the model, generate once. Seconds on a CPU, up to minutes on
        a GPU.

        Raises ModelNotFound, BadCheckpoint, also for an adapter that does not fit; InvalidOptions
        if vLLM is missing, refuses the options, or cannot run in this process; EngineDied if its
        processes fail (their own message is on standard error).
        """
        async with self._starting:
            if self._engine is not None:
                return
            process.check_process()
            self.loop = asyncio.get_running_loop()
            building = ThreadPoolExecutor(1, "orpheus-vllm").submit(self._build)
            try:
                self._engine = await asyncio.wrap_future(building)
            except asyncio.CancelledError:
                building.add_done_callback(process.discard)
                raise
            try:
                await self._load_adapters()
                await self._choose_sampler()
                await self._warm_up()
            except BaseException:
                await self.aclose()
                raise

    async def aclose(self) -> None:
        """Stop vLLM's processes, within a few seconds; running requests end with EngineDied at
        once. Idempotent."""
        engine, self._engine = self._engine, None
        if engine is None:
            return
        from vllm.v1.engine.exceptions import EngineDeadError

        engine.output_processor.propagate_error(EngineDeadError())
        if engine.output_handler is not None:
            engine.output_handler.cancel()  # otherwise it logs our own shutdown as an error
        await asyncio.shield(asyncio.ensure_future(asyncio.to_thread(process.shut_down, engine)))

    @property
    def running(self) -> int:
        """Requests that were passed to vLLM and have not ended, running or waiting for a place."""
        return 0 if self._engine is None else int(self._engine.get_num_unfinished_requests())

    @property
    def failure(self) -> EngineDied | None:
        """See TokenGenerator: from vLLM's own health check, and from the ids that come. Each step
        gives ids of every request that runs, so ids of any request show that it works.
        """
        if self._engine is None or self._engine.errored:
            return EngineDied("vLLM is not running")
        limit_s = worker_thread.STEP_LIMIT_S
        if self._requests and time.monotonic() - self._moved_at > limit_s:
            return EngineDied(f"vLLM hangs: no ids for over {limit_s:g} s")
        return None

    @property
    def engine(self) -> Any:
        """vLLM's AsyncLLM, for what this class does not offer; None while stopped."""
        return self._engine

    async def call_worker(self, method: str, *args: object) -> Any:
        """Call a method of vLLM's worker (see `worker`), between two steps of the model. On the
        loop of `start`.

        Arguments and result are bytes, numbers, strings and lists of them. Raises EngineDied when
        vLLM dies or is closed meanwhile, GenerationFailed when the method fails.
        """
        engine = self._alive()
        call = asyncio.ensure_future(engine.collective_rpc(method, args=args))
        try:
            # vLLM does not answer a call when its process dies.
            while not (await asyncio.wait({call}, timeout=_LOOK_S))[0]:
                if engine is not self._engine or engine.errored:
                    raise EngineDied(f"vLLM died or was stopped during {method}")
            (result,) = call.result()
        except EngineDied:
            raise
        except Exception as error:
            if engine is not self._engine or engine.errored:
                raise EngineDied(f"vLLM died or was stopped during {method}") from error
            raise GenerationFailed(f"{method} in vLLM's worker failed: {error}") from error
        finally:
            call.cancel()
        return result

    def _build(self) -> Any:
        """The engine. Blocking: on a worker thread."""
        process.prepare()
        found = {}
        if self._adapters:
            shape = LlamaShape.read(self._model_dir, quantized=True)
            found = read_adapters(self._adapters, self._model_dir, shape)
        adapters = tuple(found.values())
        args = engine_args(self._model_dir, self._vocabulary, self.options, self._device, adapters)
        return process.build({"worker_extension_cls": self.worker} | args)

    async def _load_adapters(self) -> None:
        for name in self._adapters:
            try:
                await self._alive().add_lora(self._lora(name))
            except EngineDied:
                raise
            except Exception as error:  # vLLM's own are of many kinds
                raise BadCheckpoint(f"adapter {name!r}: vLLM refuses it: {error}") from error

    def _lora(self, adapter: str | None) -> Any:
        """vLLM's name of an adapter, None for none. Raises InvalidOptions for an unknown one."""
        number = index_of(adapter, self._adapters)
        if adapter is None:
            return None
        from vllm.lora.request import LoRARequest

        return LoRARequest(adapter, number + 1, str(self._adapters[adapter].resolve()))

    async def use_sampler(self, kind: Literal["whole", "compact"]) -> str:
        """Switch vLLM's sampler between two steps (see VllmOptions.sampler). Returns the one now in
        use.

        Call it while no requests run: a running request would draw its ids with both.
        """
        config = self._alive().vllm_config.parallel_config
        if config.worker_extension_cls != self.worker:  # engine_args has another one
            return "whole"
        ids = (self._vocabulary.audio_base, self._vocabulary.end_of_speech)
        return str(await self.call_worker("orpheus_use_sampler", kind, *ids))

    async def _choose_sampler(self) -> None:
        from vllm.platforms import current_platform

        if not compact_sampler(self.options, current_platform.device_type):
            return
        if await self.use_sampler("compact") != "compact" and self.options.sampler == "compact":
            logger.warning("the compact sampler needs the restricted head; vLLM's own is in use")

    async def _warm_up(self) -> None:
        """One request with Orpheus' sampling. On a GPU then as many at once as need kernels of
        their own."""
        prompt = self._vocabulary.prompt(None, "")

        async def speak(
            name: str, ids: int, adapter: str | None = None, seed: int | None = None
        ) -> None:
            sampling = SamplingParams(max_tokens=ids, seed=seed)
            chunks = self.generate(prompt, sampling, name, adapter=adapter)
            async with contextlib.aclosing(chunks):
                async for _ in chunks:
                    pass

        await speak("warm-up", 8)
        await asyncio.gather(*(speak(f"warm-up-{name}", 8, name) for name in self._adapters))
        from vllm.platforms import current_platform

        if current_platform.is_cuda_alike():
            most = min(_WARM_BATCHES[-1], self.options.max_streams)
            batches = [*(many for many in _WARM_BATCHES if many < most), most]
            for many, seed in [(most, None), *((many, 1) for many in batches)]:
                # Long enough for the first to run still when the last arrives.
                names = [f"warm-up-{many}-{seed}-{number}" for number in range(many)]
                await asyncio.gather(*(speak(name, 64, seed=seed) for name in names))

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
        """See TokenGenerator. The request is checked here and queued at the first step of the
        iterator. In addition, priority: when the cache is full, requests with the highest number
        lose their place.
        """
        context = request.context_of(self._alive())
        prompt = checked_prompt(prompt_ids, self._vocabulary.size, context)
        check_sampling(sampling)
        return self._stream(prompt, sampling, request_id, priority, self._lora(adapter))

    def _alive(self) -> Any:
        if (failure := self.failure) is not None:
            raise failure
        return self._engine

    async def _stream(
        self, prompt: list[int], sampling: SamplingParams, request_id: str, priority: int, lora: Any
    ) -> AsyncGenerator[TokenChunk, None]:
        engine = self._alive()
        if request_id in self._requests:
            raise InvalidOptions(f"request {request_id!r} is already running")
        from vllm.exceptions import VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        params = request.sampling_params(
            sampling, self._vocabulary, len(prompt), request.context_of(engine)
        )
        if not self._requests:
            self._moved_at = time.monotonic()
        self._requests.add(request_id)
        count, fine, finish = 0, True, None
        outputs = engine.generate(
            {"type": "token", "prompt_token_ids": prompt},
            params,
            request_id,
            priority=priority,
            lora_request=lora,
        )
        try:
            async with contextlib.aclosing(outputs):
                async for output in outputs:
                    self._moved_at = time.monotonic()
                    completion = output.outputs[0]
                    ids = completion.token_ids
                    count += len(ids)
                    if output.finished:
                        finish = request.finish_reason(completion.finish_reason)
                        if ids and ids[-1] == self._vocabulary.end_of_speech:
                            ids = ids[:-1]
                        yield TokenChunk(ids, finish)
                        return
                    if fine and count >= self.options.fine_tokens:
                        fine = False
                        request.coarsen(engine, request_id, self.options.stream_interval)
                    if ids:
                        yield TokenChunk(ids)
        except EngineDeadError as error:
            raise EngineDied(
                "vLLM's engine process died or was stopped under this request"
            ) from error
        except EngineGenerateError as error:
            if engine.errored:
                raise EngineDied(f"vLLM died under this request: {error.__cause__}") from error
            raise GenerationFailed(f"vLLM failed this request: {error.__cause__}") from error
        except VLLMClientError as error:
            raise InvalidOptions(f"vLLM refuses this request: {error}") from error
        finally:
            self._requests.discard(request_id)
            if finish is None and not engine.errored:
                await engine.abort(request_id)  # nothing to do unless vLLM's own cleanup missed it
