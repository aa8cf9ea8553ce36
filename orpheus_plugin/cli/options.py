"""The options of every command that runs an engine."""

from __future__ import annotations

import argparse
from pathlib import Path

from orpheus_plugin.engine.config import EngineConfig


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say which model runs where."""
    parser.add_argument(
        "--model", default="auto", help="name, hub repository or directory (default: auto)"
    )
    parser.add_argument("--codec", type=Path, help="SNAC snapshot directory (default: the model's)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--generator", default="auto", choices=("auto", "cpu", "torch", "vllm", "completions")
    )
    parser.add_argument(
        "--token-server",
        action="append",
        default=[],
        metavar="URL",
        help="OpenAI-style server that generates the tokens; may be given several times",
    )


def engine_config(args: argparse.Namespace, *, ahead_s: float | None = 20.0) -> EngineConfig:
    """The engine that the options of `add_engine_arguments` describe."""
    return EngineConfig(
        model=args.model,
        codec=args.codec,
        device=args.device,
        generator=args.generator,
        urls=tuple(args.token_server),
        ahead_s=ahead_s,
    )
