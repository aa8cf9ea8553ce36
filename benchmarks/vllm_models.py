"""The models that the vLLM benchmarks run on: a given directory, the crafted test checkpoint, or
random 3B weights."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.report import add_save_option
from benchmarks.shapes import ORPHEUS_3B
from orpheus_plugin.tokens.vllm.options import VllmOptions
from orpheus_plugin.tokens.vocabulary import Vocabulary


@dataclass(frozen=True)
class Choice:
    """A model to measure on. `dummy`: vLLM makes up its weights."""

    name: str
    directory: Path
    vocabulary: Vocabulary
    gpu: bool
    dummy: bool = False

    @classmethod
    def of(cls, args: argparse.Namespace) -> Choice:
        """From the options of `arguments_of`."""
        for name, value in (("OMP_NUM_THREADS", "1"), ("HF_HUB_OFFLINE", "1")):
            os.environ.setdefault(name, value)
        import torch

        from tests.support.checkpoints import crafted_checkpoint, write_tokenizer

        gpu = torch.cuda.is_available()
        if args.model is not None:
            return cls(args.model.name, args.model, Vocabulary.load(args.model), gpu)
        if args.random_3b:
            directory = Path(tempfile.gettempdir()) / f"orpheus-random-3b-{os.getuid()}"
            if not (directory / "config.json").is_file():
                write_tokenizer(directory)
                (directory / "config.json").write_text(json.dumps(ORPHEUS_3B), "utf-8")
            return cls("random weights, 3B", directory, Vocabulary.load(directory), gpu, True)
        directory = crafted_checkpoint(stop=0.0)
        return cls("crafted, hidden 64", directory, Vocabulary.load(directory), gpu)


def crafted_3b(stop: float = 0.0) -> Path:
    """A checkpoint of Orpheus 3B's shape that emits well-formed frames, with this chance of the end
    after each. Made if it is not there yet: 7 GB on disk, and to make it 10 GB of a GPU's memory,
    or 25 GB of the machine's."""
    import torch

    from tests.support.checkpoints import crafted_checkpoint

    return crafted_checkpoint(
        stop=stop,
        device="cuda" if torch.cuda.is_available() else "cpu",
        hidden=ORPHEUS_3B["hidden_size"],
        layers=ORPHEUS_3B["num_hidden_layers"],
        heads=ORPHEUS_3B["num_attention_heads"],
        kv_heads=ORPHEUS_3B["num_key_value_heads"],
        head_dim=ORPHEUS_3B["head_dim"],
        inner=ORPHEUS_3B["intermediate_size"],
    )


def arguments_of(
    doc: str | None, *, ids: int, rounds: int, of: str = "a request"
) -> argparse.ArgumentParser:
    """The options that the benchmarks of vLLM share. `ids` and `rounds` are defaults, `of` says
    what has so many ids."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawTextHelpFormatter)
    add_save_option(parser)
    parser.add_argument("--model", type=Path, help="directory of a model")
    parser.add_argument("--random-3b", action="store_true", help="Orpheus 3B's shape, no weights")
    parser.add_argument("--quantization", help="such as fp8 (needs a GPU)")
    parser.add_argument("--out", help="name of the file of results")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--ids", type=int, default=ids, help=f"ids of {of}")
    parser.add_argument("--rounds", type=int, default=rounds)
    return parser


def options_for(
    choice: Choice,
    streams: int,
    *,
    restricted_head: bool = True,
    sampler: Literal["auto", "whole", "compact"] = "auto",
    quantization: str | None = None,
) -> VllmOptions:
    extra: dict[str, Any] = {"load_format": "dummy"} if choice.dummy else {}
    return VllmOptions(
        max_streams=streams,
        max_model_len=2048,
        kv_cache_bytes=(4 << 30) if choice.gpu or choice.dummy else (256 << 20),
        restricted_head=restricted_head,
        sampler=sampler,
        quantization=quantization,
        engine_args=extra,
    )
