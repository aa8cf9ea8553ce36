"""Tokens from vLLM's AsyncLLM: one engine in processes of its own, batching every request of this process.

Tested with vLLM 0.32: its CPU build in every test run, its CUDA build twice on an H200 (CUDA graphs, FlashAttention 3, the
restricted head; not fp8, and without FlashInfer). What those runs gave is in benchmarks/results/gpu_*.json.

vLLM starts its processes by spawning: a script that starts this generator at import time, without the usual
`if __name__ == "__main__":`, would start itself again in each of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import logging
import multiprocessing
import os
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from orpheus_plugin.errors import (
    BadCheckpoint,
    EngineDied,
    GenerationFailed,
    InvalidOptions,
    ModelNotFound,
)
from orpheus_plugin.tokens.base import FinishReason, SamplingParams, TokenChunk
from orpheus_plugin.tokens.checks import check_sampling, checked_prompt
from orpheus_plugin.tokens.footprint import Footprint, tensors_in
from orpheus_plugin.tokens.vllm import plugin
from orpheus_plugin.tokens.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

_ENVIRONMENT = {
    # Forking a process that has threads, an event loop and perhaps CUDA breaks in ways that show much later.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
}
_SHUTDOWN_S = 2.0
_ONE_PROCESS = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
_MOST_OF_A_GPU = 0.92  # vLLM's own default
_CONTEXT = 4096
_WARM_BATCH = 65
"""Requests of the second warm-up round. Where FlashInfer is missing, vLLM 0.32 samples for more than 64 requests with another
kernel, which is compiled at first use: 2.5 s on an H200, for everybody who speaks just then."""


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """How vLLM is run. The defaults suit Orpheus 3B beside its codec on a GPU of 16 GB or more.

    Attributes:
        max_streams: requests generated at once; others wait in vLLM's queue.
        max_model_len: ids of prompt and speech together; None is 4,096, or the model's own limit where that is less.
            Orpheus 3B's own (131,072) would ask for 14 GiB of cache.
        kv_cache_bytes: memory for attention keys and values. Orpheus 3B takes 112 KiB an id in bf16, so 4 GiB hold
            38,000 ids: 64 utterances of 7 s. An exact size, unlike vLLM's share of the whole card, leaves room for
            the codec whatever started first.
        dtype: of weights and activations; "auto" is the checkpoint's (Orpheus 3B says float32: twice the memory).
        quantization: vLLM's name of a method, such as "fp8" (weights quantised while loading; needs a GPU that has it).
            None takes what the checkpoint says. The effect of fp8 on the voice was not measured here.
        kv_cache_dtype: "auto" or vLLM's name of a type, such as "fp8".
        restricted_head: compute the logits of control and audio ids only (see `plugin`). Ignored where the model
            is no Llama or the package's vLLM plugin is not installed.
        prefix_caching: reuse the cache of equal prompt beginnings. It costs nothing and helps only where the same text
            is spoken again: prompts share their first six ids or so, less than a cache block.
        eager: no CUDA graphs. None is False on CUDA and True elsewhere. True saves tens of seconds of start and costs
            much of the speed of few streams.
        fine_tokens: this many ids of a request are handed on one by one, so that its first audio comes early...
        stream_interval: ...and after them in groups of this many, which costs the event loop a fraction.
        engine_args: further arguments of vLLM's `AsyncEngineArgs`, over all of the above.
    """

    max_streams: int = 64
    max_model_len: int | None = None
    kv_cache_bytes: int = 4 << 30
    dtype: str = "bfloat16"
    quantization: str | None = None
    kv_cache_dtype: str = "auto"
    restricted_head: bool = True
    prefix_caching: bool = True
    eager: bool | None = None
    fine_tokens: int = 28
    stream_interval: int = 7
    engine_args: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name in ("max_streams", "max_model_len", "kv_cache_bytes", "stream_interval"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidOptions(f"{name} must be at least 1, not {value}")
        if self.fine_tokens < 0:
            raise InvalidOptions(f"fine_tokens must not be negative, but is {self.fine_tokens}")


class VllmGenerator:
    """A TokenGenerator on vLLM. Start it again after its death with `aclose()` and `start()`, on the same object.

    Args:
        model_dir: directory of the language model (config.json, *.safetensors).
        vocabulary: its ids.
        options: how vLLM runs.
        max_streams: over `options.max_streams`.
        device: "cpu", "cuda" or "cuda:N", as torch counts the GPUs that CUDA_VISIBLE_DEVICES leaves; None is whatever
            the installed vLLM was built for.
    """

    def __init__(
        self,
        model_dir: str | Path,
        vocabulary: Vocabulary,
        options: VllmOptions | None = None,
        *,
        max_streams: int | None = None,
        device: str | None = None,
    ) -> None:
        options = options or VllmOptions()
        self.options = options if max_streams is None else replace(options, max_streams=max_streams)
        self._model_dir = Path(model_dir)
        self._vocabulary = vocabulary
        self._device = device
        self._engine: Any = None
        self._requests: set[str] = set()
        self._starting = asyncio.Lock()

    # ---- life

    async def start(self) -> None:
        """Start vLLM's processes, load the model, generate once. Seconds on a CPU, up to minutes on a GPU.

        Raises ModelNotFound, BadCheckpoint; InvalidOptions where vLLM is missing, refuses the options, or cannot run in
        this process; EngineDied when its processes fail, whose own account is then on standard error.
        """
        async with self._starting:
            if self._engine is not None:
                return
            _check_process()
            building = ThreadPoolExecutor(1, "orpheus-vllm").submit(self._build)
            try:
                self._engine = await asyncio.wrap_future(building)
            except asyncio.CancelledError:
                building.add_done_callback(_discard)
                raise
            try:
                await self._warm_up()
            except BaseException:
                await self.aclose()
                raise

    async def aclose(self) -> None:
        """Stop vLLM's processes, within a few seconds; running requests end with EngineDied at once. Idempotent."""
        engine, self._engine = self._engine, None
        if engine is None:
            return
        from vllm.v1.engine.exceptions import EngineDeadError

        engine.output_processor.propagate_error(EngineDeadError())
        if engine.output_handler is not None:
            engine.output_handler.cancel()  # else it logs our own shutdown as an error
        await asyncio.shield(asyncio.ensure_future(asyncio.to_thread(_shut_down, engine)))

    @property
    def running(self) -> int:
        """Requests handed to vLLM and not over, running or waiting for a place."""
        return 0 if self._engine is None else int(self._engine.get_num_unfinished_requests())

    @property
    def engine(self) -> Any:
        """vLLM's AsyncLLM, for what this class does not offer; None while stopped."""
        return self._engine

    def _build(self) -> Any:
        """The engine, on a worker thread."""
        config = _read_config(
            self._model_dir, self.options.engine_args.get("load_format") != "dummy"
        )
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        os.environ[plugin.PARENT_KEY] = str(os.getpid())
        try:
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.v1.engine.async_llm import AsyncLLM
        except ImportError as error:
            raise InvalidOptions(
                f"vLLM cannot be imported ({error}); install it with: pip install 'orpheus_plugin[vllm]'"
            ) from error
        arguments = self._engine_args(config)
        try:
            return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
        except (ValueError, TypeError) as error:
            raise InvalidOptions(
                f"vLLM refuses {self._model_dir} with these options: {error}"
            ) from error
        except (RuntimeError, OSError, TimeoutError) as error:
            raise EngineDied(
                f"vLLM did not start: {error}. Its own account is above, on standard error."
                + _missing_guard()
            ) from error

    def _engine_args(self, config: Mapping[str, Any]) -> dict[str, Any]:
        from vllm.platforms import current_platform

        options = self.options
        eager = not current_platform.is_cuda_alike() if options.eager is None else options.eager
        args: dict[str, Any] = {
            "model": str(self._model_dir),
            "skip_tokenizer_init": True,
            "generation_config": "vllm",  # sampling defaults are ours, not the checkpoint's
            "dtype": options.dtype,
            "quantization": options.quantization,
            "kv_cache_dtype": options.kv_cache_dtype,
            "max_model_len": options.max_model_len
            or min(_CONTEXT, int(config.get("max_position_embeddings") or _CONTEXT)),
            "max_num_seqs": options.max_streams,
            "kv_cache_memory_bytes": options.kv_cache_bytes,
            "enable_prefix_caching": options.prefix_caching,
            "scheduling_policy": "priority",
            "enforce_eager": eager,
            "disable_log_stats": True,
            "use_tqdm_on_load": False,
            "device_ids": device_ids(self._device, current_platform.device_type),
        }
        if current_platform.is_cuda_alike():
            # vLLM does not start where less than this share of the card is free, although the cache's size is given. Its
            # default would refuse a card that the codec or anything else is on.
            index = (args["device_ids"] or [0])[0]
            total = int(current_platform.get_device_total_memory(index))
            needed = footprint(self._model_dir, options).total
            args["gpu_memory_utilization"] = min(_MOST_OF_A_GPU, needed / total)
        if current_platform.device_type == "cpu" and os.environ.get("OMP_NUM_THREADS") == "1":
            # As on one GPU, scheduler and model in one process. On a CPU vLLM takes two, so as to bind the model's threads
            # to cores, and the scheduler's spins on a core of its own. One thread needs no binding, and it starts sooner.
            args["distributed_executor_backend"] = _ONE_PROCESS
        if not eager:
            args["cudagraph_capture_sizes"] = graph_sizes(options.max_streams)
        if options.restricted_head and config.get("architectures") == ["LlamaForCausalLM"]:
            if plugin.installed():
                args["hf_overrides"] = plugin.overrides(self._vocabulary)
            else:
                logger.warning(
                    "The restricted head needs this package installed with its entry points; the whole head is in use"
                )
        args.update(options.engine_args)
        return args

    async def _warm_up(self) -> None:
        """One request; on a GPU then as many as need the kernels of large batches, all with Orpheus' own sampling."""
        prompt = self._vocabulary.prompt(None, "")

        async def speak(name: str, ids: int) -> None:
            chunks = self.generate(prompt, SamplingParams(max_tokens=ids), name)
            async with contextlib.aclosing(chunks):
                async for _ in chunks:
                    pass

        await speak("warm-up", 8)
        from vllm.platforms import current_platform

        if current_platform.is_cuda_alike():
            # Long enough that the first still runs when the last arrives.
            many = min(_WARM_BATCH, self.options.max_streams)
            await asyncio.gather(*(speak(f"warm-up-{number}", 64) for number in range(many)))

    # ---- requests

    def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingParams,
        request_id: str,
        *,
        priority: int = 0,
    ) -> AsyncGenerator[TokenChunk, None]:
        """See TokenGenerator. The request is checked here and queued at the first step of the iterator. Besides:

        priority: where the cache is full, requests with the highest number lose their place.
        """
        context = _context(self._alive())
        prompt = checked_prompt(prompt_ids, self._vocabulary.size, context)
        check_sampling(sampling)
        return self._stream(prompt, sampling, request_id, priority)

    def _alive(self) -> Any:
        if self._engine is None or self._engine.errored:
            raise EngineDied("vLLM is not running")
        return self._engine

    async def _stream(
        self, prompt: list[int], sampling: SamplingParams, request_id: str, priority: int
    ) -> AsyncGenerator[TokenChunk, None]:
        engine = self._alive()
        if request_id in self._requests:
            raise InvalidOptions(f"request {request_id!r} is already running")
        from vllm.exceptions import VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        params = self._params(sampling, len(prompt), _context(engine))
        self._requests.add(request_id)
        count, fine, finish = 0, True, None
        outputs = engine.generate(
            {"type": "token", "prompt_token_ids": prompt}, params, request_id, priority=priority
        )
        try:
            async with contextlib.aclosing(outputs):
                async for output in outputs:
                    completion = output.outputs[0]
                    ids = completion.token_ids
                    count += len(ids)
                    if output.finished:
                        finish = _finish(completion.finish_reason)
                        if ids and ids[-1] == self._vocabulary.end_of_speech:
                            ids = ids[:-1]
                        yield TokenChunk(ids, finish)
                        return
                    if fine and count >= self.options.fine_tokens:
                        fine = False
                        _coarsen(engine, request_id, self.options.stream_interval)
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

    def _params(self, sampling: SamplingParams, prompt_length: int, context: int) -> Any:
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        try:
            return SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                repetition_penalty=sampling.repetition_penalty,
                max_tokens=min(sampling.max_tokens, context - prompt_length),
                # A seed in any request takes vLLM's whole step off its fused GPU sampler.
                seed=sampling.seed,
                stop_token_ids=[self._vocabulary.end_of_speech],
                ignore_eos=True,
                detokenize=False,
                output_kind=RequestOutputKind.DELTA,
            )
        except ValueError as error:
            raise InvalidOptions(f"sampling options: {error}") from error


def graph_sizes(max_streams: int) -> list[int]:
    """Batch sizes worth a CUDA graph: every batch runs in the next larger one. Each costs start time and memory."""
    sizes = [1, 2, 4, *range(8, 65, 8), *range(80, max_streams + 1, 16)]
    return [size for size in sizes if size < max_streams] + [max_streams]


def footprint(model_dir: Path, options: VllmOptions) -> Footprint:
    """What vLLM takes of the GPU. Raises BadCheckpoint for a damaged weights file."""
    eight_bit = "8" in (options.quantization or "")
    return Footprint.of(model_dir, cache=options.kv_cache_bytes, eight_bit=eight_bit)


def device_ids(device: str | None, built_for: str) -> list[int] | None:
    """vLLM's `device_ids` for a device such as "cuda:1"; None leaves the choice to vLLM.

    Raises InvalidOptions for a device that a vLLM built for `built_for` ("cuda", "cpu") does not run on.
    """
    if device is None:
        return None
    kind, _, index = device.partition(":")
    if kind != built_for:
        raise InvalidOptions(
            f"the vLLM that is installed was built for {built_for} and cannot run on {device!r}: install the other build,"
            f" use device={built_for!r}, or use generator='torch'"
        )
    return [int(index)] if index else None


def _context(engine: Any) -> int:
    """Ids of prompt and speech together that a request may have."""
    return int(engine.model_config.max_model_len)


def _finish(reason: str | None) -> FinishReason:
    if reason in ("stop", "length", "abort"):
        return reason  # type: ignore[return-value]  # one of the literals
    raise GenerationFailed(f"vLLM ended the request with {reason!r}")


def _coarsen(engine: Any, request_id: str, interval: int) -> None:
    """From here on vLLM gives this request's ids in groups of `interval`.

    vLLM fixes the interval when a request is added. Its output side is in this process and on this event loop, so its
    bookkeeping can be moved on between two outputs. Where another vLLM keeps it differently, ids go on one by one.
    """
    if interval <= 1:
        return
    try:
        processor = engine.output_processor
        for internal_id in processor.external_req_ids.get(request_id, ()):
            state = processor.request_states[internal_id]
            sent = state.detokenizer.num_output_tokens()
            state.sent_tokens_offset, state.stream_interval = sent, interval
    except (AttributeError, KeyError):
        logger.debug("vLLM's stream interval cannot be changed within a request", exc_info=True)


def _read_config(model_dir: Path, weights_needed: bool) -> dict[str, Any]:
    if not model_dir.is_dir():
        raise ModelNotFound(f"{model_dir} is not a directory")
    path = model_dir / "config.json"
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BadCheckpoint(f"{path}: cannot be read: {error}") from error
    if not isinstance(config, dict) or not config.get("architectures"):
        raise BadCheckpoint(f"{path}: names no architecture")
    weights = sorted(model_dir.glob("*.safetensors"))
    if weights_needed and not weights:
        raise BadCheckpoint(f"{model_dir}: no *.safetensors")
    for file in weights:
        tensors_in(file)
    return config


def _check_process() -> None:
    if importlib.util.find_spec("vllm") is None:
        raise InvalidOptions("vLLM is not installed: pip install 'orpheus_plugin[vllm]'")
    process = multiprocessing.current_process()
    if getattr(
        process, "_inheriting", False
    ):  # a spawned process that is still importing its main module
        raise InvalidOptions(
            'the main script starts vLLM when it is imported; put that under: if __name__ == "__main__":'
        )
    if process.daemon:
        raise InvalidOptions(
            "vLLM cannot start in a daemonic process, which may have no children: run `orpheus-tts serve` and give"
            " this process its url, or start the process with daemon=False"
        )


def _missing_guard() -> str:
    """A hint for the error message if the main script seems to lack its guard."""
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    try:
        unguarded = path is not None and "__name__" not in Path(path).read_text("utf-8")
    except (OSError, ValueError):
        return ""
    if not unguarded:
        return ""
    return f' {path} starts it without: if __name__ == "__main__": - vLLM\'s processes import that file and start again.'


def _shut_down(engine: Any) -> None:
    try:
        engine.shutdown(timeout=_SHUTDOWN_S)
    except Exception:  # a dead engine may not even shut down cleanly; nothing is lost with it
        logger.debug("vLLM's shutdown failed", exc_info=True)
    engine.shutdown = (
        _nothing  # vLLM calls it once more from __del__, perhaps from a half-dismantled interpreter
    )


def _nothing() -> None:
    pass


def _discard(building: Future[Any]) -> None:
    """An engine whose start was cancelled is stopped when it is there, on the thread that made it."""
    if not building.cancelled() and building.exception() is None:
        _shut_down(building.result())


__all__ = ["VllmGenerator", "VllmOptions", "device_ids", "footprint", "graph_sizes"]
