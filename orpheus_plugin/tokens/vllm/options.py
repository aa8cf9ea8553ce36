"""Options for vLLM, and vLLM's arguments made of them."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from orpheus_plugin.errors import BadCheckpoint, InvalidOptions, ModelNotFound
from orpheus_plugin.json_files import read_object
from orpheus_plugin.options import check_count
from orpheus_plugin.tensors import read_safetensors
from orpheus_plugin.tokens.adapters import Adapter
from orpheus_plugin.tokens.footprint import Footprint
from orpheus_plugin.tokens.vllm import plugin
from orpheus_plugin.tokens.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

_ONE_PROCESS = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
_MOST_OF_A_GPU = 0.92  # vLLM's own default
_CONTEXT = 4096
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # vLLM's


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """Options of VllmGenerator. The defaults suit Orpheus 3B with its codec on the same GPU of 16
    GB or more.

    Attributes:
        max_streams: requests generated at once; others wait in vLLM's queue.
        max_model_len: ids of prompt and speech together; None is 4,096, or the model's own limit if
            that is less. Orpheus 3B's own limit (131,072) would need 14 GiB of cache.
        kv_cache_bytes: memory for attention keys and values. Orpheus 3B needs 112 KiB an id in
            bf16, so 4 GiB hold 38,000 ids: 64 utterances of 7 s. An exact size, unlike vLLM's share
            of the whole GPU, leaves room for the codec, whichever of the two starts first.
        dtype: of weights and activations; "auto" is the checkpoint's (Orpheus 3B says float32:
            twice the memory).
        quantization: vLLM's name of a method, such as "fp8" (weights quantised while loading; needs
            a GPU that has it). None uses the checkpoint's. The effect of fp8 on the voice was not
            measured here.
        kv_cache_dtype: "auto" or vLLM's name of a type, such as "fp8".
        restricted_head: compute the logits of control and audio ids only (see `model`). Ignored if
            the model is not a Llama or the package's vLLM plugin is not installed.
        sampler: "compact" draws from the codes of a request's slot only (see `sampler`), which also
            keeps every frame in order; "whole" is vLLM's own sampler over all ids. "auto" is
            compact on a CPU and whole on a GPU, on which compact has not run to its end yet.
            Compact needs the restricted head.
        prefix_caching: reuse the cache of equal prompt beginnings. It costs nothing and helps only
            if the same text is spoken again: prompts share about their first six ids, less than a
            cache block.
        eager: no CUDA graphs. None is False on CUDA and True elsewhere. True starts tens of seconds
            sooner, but makes few streams much slower.
        fine_tokens: so many ids of a request are returned one by one, so that its first audio comes
            early.
        stream_interval: the following ids are returned in groups of so many, which costs the event
            loop less.
        engine_args: more arguments of vLLM's `AsyncEngineArgs`; they override all of the above.
    """

    max_streams: int = 64
    max_model_len: int | None = None
    kv_cache_bytes: int = 4 << 30
    dtype: str = "bfloat16"
    quantization: str | None = None
    kv_cache_dtype: str = "auto"
    restricted_head: bool = True
    sampler: Literal["auto", "whole", "compact"] = "auto"
    prefix_caching: bool = True
    eager: bool | None = None
    fine_tokens: int = 28
    stream_interval: int = 7
    engine_args: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name in ("max_streams", "max_model_len", "kv_cache_bytes", "stream_interval"):
            check_count(name, getattr(self, name), 1)
        check_count("fine_tokens", self.fine_tokens, 0)


def engine_args(
    model_dir: Path,
    vocabulary: Vocabulary,
    options: VllmOptions,
    device: str | None,
    adapters: Sequence[Adapter] = (),
) -> dict[str, Any]:
    """The arguments of vLLM's `AsyncEngineArgs` for a model. Imports vLLM.

    Args:
        device: "cpu", "cuda" or "cuda:N"; None is the device the installed vLLM was built for.

    Raises ModelNotFound, BadCheckpoint, or InvalidOptions for a device that the installed vLLM does
    not run on.
    """
    from vllm.platforms import current_platform

    config = _read_config(model_dir, options.engine_args.get("load_format") != "dummy")
    eager = not current_platform.is_cuda_alike() if options.eager is None else options.eager
    args: dict[str, Any] = {
        "model": str(model_dir),
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
        "device_ids": device_ids(device, current_platform.device_type),
    }
    if current_platform.is_cuda_alike():
        # vLLM refuses to start if less than this share of the GPU is free, although the cache's
        # size is given. Its default would refuse a GPU that already has the codec or another
        # program on it.
        index = (args["device_ids"] or [0])[0]
        total = int(current_platform.get_device_total_memory(index))
        needed = footprint(model_dir, options).total
        args["gpu_memory_utilization"] = min(_MOST_OF_A_GPU, needed / total)
    if current_platform.device_type == "cpu" and os.environ.get("OMP_NUM_THREADS") == "1":
        # Scheduler and model in one process, as on one GPU. On a CPU vLLM uses two by default, to
        # bind the model's threads to cores, and the scheduler's process keeps a core busy. One
        # thread needs no binding.
        args["distributed_executor_backend"] = _ONE_PROCESS
    if not eager:
        args["cudagraph_capture_sizes"] = graph_sizes(options.max_streams)
    if options.restricted_head and config.get("architectures") == ["LlamaForCausalLM"]:
        if plugin.installed():
            args["hf_overrides"] = plugin.overrides(vocabulary)
        else:
            logger.warning(
                "the restricted head needs this package installed with its entry points; the whole"
                " head is in use"
            )
    args.update(lora_args(adapters, on_cpu=current_platform.device_type == "cpu"))
    args.update(options.engine_args)
    return args


def lora_args(adapters: Sequence[Adapter], *, on_cpu: bool) -> dict[str, Any]:
    """vLLM's arguments that keep all these adapters beside the model.

    Only the matrices that some adapter changes are wrapped. Without that vLLM wraps the head as
    well, which the restricted head passes by.
    """
    if not adapters:
        return {}
    rank = max(adapter.rank for adapter in adapters)
    # On a CPU vLLM 0.32 reads adapter number -1 for a request without one, which in torch is the
    # last place (lora/ops/torch_ops). One place more than adapters stays empty: it adds zeros.
    places = len(adapters) + on_cpu
    return {
        "enable_lora": True,
        "max_loras": places,
        "max_cpu_loras": places,
        "max_lora_rank": next(size for size in _RANKS if size >= rank),
        "lora_target_modules": sorted({name for a in adapters for name in a.modules}),
    }


def compact_sampler(options: VllmOptions, device_type: str) -> bool:
    """Whether these options mean the compact sampler on this type of device ("cpu", "cuda")."""
    return options.sampler == "compact" or (options.sampler == "auto" and device_type == "cpu")


def graph_sizes(max_streams: int) -> list[int]:
    """Batch sizes for which a CUDA graph is captured; every batch runs in the next larger one. Each
    costs start time and memory."""
    sizes = [1, 2, 4, *range(8, 65, 8), *range(80, max_streams + 1, 16)]
    return [size for size in sizes if size < max_streams] + [max_streams]


def footprint(model_dir: Path, options: VllmOptions) -> Footprint:
    """GPU memory that vLLM needs. Raises BadCheckpoint for a damaged weights file."""
    eight_bit = "8" in (options.quantization or "")
    return Footprint.of(model_dir, cache=options.kv_cache_bytes, eight_bit=eight_bit)


def device_ids(device: str | None, built_for: str) -> list[int] | None:
    """vLLM's `device_ids` for a device such as "cuda:1"; None leaves the choice to vLLM.

    Raises InvalidOptions for a device that a vLLM built for `built_for` ("cuda", "cpu") does not
    run on.
    """
    if device is None:
        return None
    kind, _, index = device.partition(":")
    if kind != built_for:
        raise InvalidOptions(
            f"the vLLM that is installed was built for {built_for} and cannot run on {device!r}:"
            f" install the other build, use device={built_for!r}, or use generator='torch'"
        )
    return [int(index)] if index else None


def _read_config(model_dir: Path, weights_needed: bool) -> dict[str, Any]:
    if not model_dir.is_dir():
        raise ModelNotFound(f"{model_dir} is not a directory")
    path = model_dir / "config.json"
    config = read_object(path)
    if not config.get("architectures"):
        raise BadCheckpoint(f"{path}: names no architecture")
    weights = sorted(model_dir.glob("*.safetensors"))
    if weights_needed and not weights:
        raise BadCheckpoint(f"{model_dir}: no *.safetensors")
    for file in weights:
        read_safetensors(file)  # an incomplete one fails much later, in another process
    return config
