"""Orpheus text-to-speech for real-time voice agents.

`from orpheus_plugin.pipecat import OrpheusTTS` or `from orpheus_plugin.livekit import OrpheusTTS`
in an agent; the names here are for everything else. Importing this loads no torch, no vLLM and no
framework.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from orpheus_plugin.version import __version__

if TYPE_CHECKING:
    from orpheus_plugin.engine.config import EngineConfig
    from orpheus_plugin.engine.local import LocalEngine, shared_engine
    from orpheus_plugin.errors import (
        AtCapacity,
        EngineDied,
        InvalidOptions,
        ModelNotFound,
        OrpheusError,
        TextTooLong,
        UnknownVoice,
    )
    from orpheus_plugin.events import AudioChunk, TurnEnd, TurnStats, Word
    from orpheus_plugin.options import SpeechOptions
    from orpheus_plugin.speech_engine import SpeechEngine
    from orpheus_plugin.tokens.phrases import CacheOptions
    from orpheus_plugin.turn import Turn

_HOME = {
    "engine.config": ("EngineConfig",),
    "engine.local": ("LocalEngine", "shared_engine"),
    "errors": (
        "AtCapacity",
        "EngineDied",
        "InvalidOptions",
        "ModelNotFound",
        "OrpheusError",
        "TextTooLong",
        "UnknownVoice",
    ),
    "events": ("AudioChunk", "TurnEnd", "TurnStats", "Word"),
    "options": ("SpeechOptions",),
    "speech_engine": ("SpeechEngine",),
    "tokens.phrases": ("CacheOptions",),
    "turn": ("Turn",),
}

__all__ = [
    "AtCapacity",
    "AudioChunk",
    "CacheOptions",
    "EngineConfig",
    "EngineDied",
    "InvalidOptions",
    "LocalEngine",
    "ModelNotFound",
    "OrpheusError",
    "SpeechEngine",
    "SpeechOptions",
    "TextTooLong",
    "Turn",
    "TurnEnd",
    "TurnStats",
    "UnknownVoice",
    "Word",
    "__version__",
    "shared_engine",
]


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
