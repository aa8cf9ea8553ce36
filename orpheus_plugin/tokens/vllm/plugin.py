"""The vLLM plugin that registers our model class in vLLM's processes, and the configuration that
selects it.

Importing this module imports nothing of vLLM: every process of every vLLM in this environment runs
it as an entry point.
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

WORKER = "orpheus_plugin.tokens.vllm.worker.OrpheusWorker"
"""vLLM's `worker_extension_cls`: our methods in the process that has the model."""

_GROUP = "vllm.general_plugins"
_TARGET = f"{__name__}:register"


PARENT_KEY = "ORPHEUS_VLLM_PARENT"
"""Environment variable: the id of the process that starts an engine."""


def register() -> None:
    """Register the architecture with vLLM. Its class is imported when a model of it is loaded.

    An engine process of ours also ends with the process that started it.
    """
    _follow_parent()
    from vllm import ModelRegistry

    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(
            ARCHITECTURE, f"orpheus_plugin.tokens.vllm.model:{ARCHITECTURE}"
        )


def _follow_parent() -> None:
    """End with the parent. After the parent was killed, vLLM's engine process would keep the GPU's
    memory, so that no new one could start."""
    parent = multiprocessing.parent_process()
    if parent is None or os.environ.get(PARENT_KEY) != str(parent.pid):
        return

    def follow() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, name="orpheus-parent", daemon=True).start()


def overrides(vocabulary: Vocabulary) -> dict[str, Any]:
    """vLLM's `hf_overrides` that select the restricted head for a Llama checkpoint of this
    vocabulary."""
    first = min(vocabulary.start_of_speech, vocabulary.end_of_speech, vocabulary.audio_base)
    return {
        "architectures": [ARCHITECTURE],
        ROWS_KEY: [first, vocabulary.audio_base + SLOTS * CODES],
    }


def installed() -> bool:
    """Whether vLLM's processes will run `register`: the package is installed, and VLLM_PLUGINS does
    not leave it out."""
    allowed = os.environ.get("VLLM_PLUGINS")
    return any(
        point.value == _TARGET and (allowed is None or point.name in allowed.split(","))
        for point in metadata.entry_points(group=_GROUP)
    )
