"""The options of every command that runs an engine."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from orpheus_plugin.engine.config import EngineConfig
from orpheus_plugin.errors import InvalidOptions
from orpheus_plugin.models.adapters import adapter_option
from orpheus_plugin.tokens.phrases import CacheOptions
from orpheus_plugin.tokens.vllm.options import VllmOptions


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """The options for the model and the device."""
    parser.add_argument(
        "--model", default="auto", help="name, hub repository or directory (default: auto)"
    )
    parser.add_argument("--codec", type=Path, help="SNAC snapshot directory (default: the model's)")
    parser.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="a voice of your own: a LoRA adapter of the model, in a directory or hub repository;"
        " #PROMPT behind it is the name it was trained with; `bruno` alone is the one that comes"
        " with the bundled model; may be given several times",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--generator",
        default="auto",
        choices=("auto", "cpu", "torch", "vllm", "completions"),
        help="what generates the tokens (default: auto, the fastest that is here)",
    )
    parser.add_argument(
        "--token-server",
        action="append",
        default=[],
        metavar="URL",
        help="OpenAI-style server that generates the tokens; may be given several times",
    )
    parser.add_argument(
        "--codec-process",
        default="auto",
        choices=("auto", "own", "vllm"),
        help="where the codec runs: in this process, or in vLLM's worker (default: auto, which is"
        " own)",
    )
    parser.add_argument(
        "--codec-step",
        default="plain",
        choices=("plain", "tuned"),
        help="the codec's step on a GPU; tuned is compiled, has a higher priority and overlaps with"
        " the next"
        " (default: plain)",
    )
    parser.add_argument(
        "--sampler",
        default="auto",
        choices=("auto", "whole", "compact"),
        help="vLLM's own sampler, or one over the codes that may follow (default: auto, compact on"
        " a CPU)",
    )


def engine_config(args: argparse.Namespace, *, ahead_s: float | None = 20.0) -> EngineConfig:
    """The engine that the options of `add_engine_arguments` describe."""
    return EngineConfig(
        model=args.model,
        codec=args.codec,
        adapters=adapters(args.adapter),
        device=args.device,
        generator=args.generator,
        urls=tuple(args.token_server),
        generator_options=vllm_options(args),
        codec_process=args.codec_process,
        codec_step=args.codec_step,
        ahead_s=ahead_s,
    )


def adapters(given: Sequence[str]) -> dict[str, str]:
    """The values of --adapter. Raises InvalidOptions."""
    pairs = [adapter_option(text) for text in given]
    names = [name for name, _ in pairs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InvalidOptions(f"--adapter {twice}=... is given twice")
    return dict(pairs)


def vllm_options(args: argparse.Namespace) -> VllmOptions | None:
    """None unless an option of vLLM was given: other token engines take no such options."""
    return None if args.sampler == "auto" else VllmOptions(sampler=args.sampler)


def add_cache_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the phrase cache: any of them switches it on."""
    group = parser.add_argument_group("phrase cache (off by default)")
    group.add_argument(
        "--cache",
        type=int,
        metavar="MIB",
        help="replay phrases that were spoken before; size in MiB, each some 50 minutes of speech"
        " (default with the other options: 64)",
    )
    group.add_argument(
        "--cache-dir",
        type=Path,
        metavar="DIR",
        help="also keep it in files, for later processes (default: in memory only)",
    )
    group.add_argument(
        "--takes",
        type=int,
        metavar="N",
        help="takes of a phrase to generate before one of them is replayed (default: 3)",
    )
    group.add_argument(
        "--prime", type=Path, metavar="FILE", help="speak each line of it into the cache at start"
    )


def cache_options(args: argparse.Namespace) -> CacheOptions | None:
    """None if no option of `add_cache_arguments` was given. Raises InvalidOptions."""
    if args.cache is args.cache_dir is args.takes is args.prime is None:
        return None
    default = CacheOptions()
    prime: tuple[str, ...] = ()
    if args.prime is not None:
        try:
            prime = tuple(filter(None, map(str.strip, args.prime.read_text("utf-8").splitlines())))
        except (OSError, ValueError) as error:
            raise InvalidOptions(f"--prime {args.prime}: {error}") from None
    return CacheOptions(
        max_bytes=default.max_bytes if args.cache is None else args.cache * 2**20,
        directory=args.cache_dir,
        takes=default.takes if args.takes is None else args.takes,
        prime=prime,
    )
