"""One engine in this process for the jobs of every thread."""

from __future__ import annotations

import threading
from functools import cache

from orpheus_plugin.engine.config import EngineConfig
from orpheus_plugin.engine.local import LocalEngine
from orpheus_plugin.models.files import ModelFiles, ModelSpec

_lock = threading.Lock()


def engine() -> LocalEngine:
    with _lock:
        return _engine()


@cache
def _engine() -> LocalEngine:
    return LocalEngine(EngineConfig(device="cpu", max_turns=4), files=crafted())


@cache
def crafted() -> ModelFiles:
    """Well-formed speech without sense, from a tiny model."""
    import torch

    from tests.support.checkpoints import SMALL_TEXT, crafted_checkpoint
    from tests.support.codecs import random_codec

    torch.set_num_threads(1)
    spec = ModelSpec("crafted", voices=("tara", "leo"), tags=("laugh",), license="none")
    return ModelFiles(spec, crafted_checkpoint(text=SMALL_TEXT), random_codec())
