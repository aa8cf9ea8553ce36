"""Switching on the restricted head of `vllm_model`: what vLLM must be told, and the plugin that tells its processes.

Imports nothing of vLLM by itself: it is the target of an entry point that every process of every vLLM here runs.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from importlib import metadata
from multiprocessing.connection import wait
from typing import Any

from orpheus_plugin.tokens.vocabulary import CODES, SLOTS, Vocabulary

ARCHITECTURE = "OrpheusForCausalLM"
ROWS_KEY = "orpheus_head_rows"
"""Attribute of the model's configuration: [first, end) ids whose logits are computed."""

_GROUP = "vllm.general_plugins"
_TARGET = f"{__name__}:register"


PARENT_KEY = "ORPHEUS_VLLM_PARENT"
"""Environment variable: the id of the process that starts an engine for itself."""


def register() -> None:
    """Make the architecture known to vLLM. Its class is imported when a model of it is loaded.

    In an engine process of ours besides: end with the process that started it.
    """
    _follow_parent()
    from vllm import ModelRegistry

    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(
            ARCHITECTURE, f"orpheus_plugin.tokens.vllm.model:{ARCHITECTURE}"
        )


def _follow_parent() -> None:
    """vLLM's engine process outlives a parent that was killed, and keeps the GPU's memory: nobody could start again."""
    parent = multiprocessing.parent_process()
    if parent is None or os.environ.get(PARENT_KEY) != str(parent.pid):
        return

    def follow() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, name="orpheus-parent", daemon=True).start()


def overrides(vocabulary: Vocabulary) -> dict[str, Any]:
    """vLLM's `hf_overrides` that put a Llama checkpoint of this vocabulary on the restricted head."""
    first = min(vocabulary.start_of_speech, vocabulary.end_of_speech, vocabulary.audio_base)
    return {
        "architectures": [ARCHITECTURE],
        ROWS_KEY: [first, vocabulary.audio_base + SLOTS * CODES],
    }


def installed() -> bool:
    """Whether vLLM's processes will run `register`: the package is installed, and VLLM_PLUGINS does not leave it out."""
    allowed = os.environ.get("VLLM_PLUGINS")
    return any(
        point.value == _TARGET and (allowed is None or point.name in allowed.split(","))
        for point in metadata.entry_points(group=_GROUP)
    )
