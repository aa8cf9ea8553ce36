"""The operator's own table of voice names, which comes before those in `models.voices`.

A JSON object: {"voices": {"name or pattern *": "tara", ...}, "custom": "default" or "error"}.
"custom" decides what happens to voices that a client sends as an embedding, which Orpheus cannot
use.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from orpheus_plugin.errors import InvalidOptions


@dataclass(frozen=True)
class VoiceMap:
    """The voices that speak for names of the table."""

    voices: Mapping[str, str] = field(default_factory=dict)
    custom: Literal["default", "error"] = "default"

    @classmethod
    def load(cls, path: Path | None) -> VoiceMap:
        """Raises InvalidOptions for a file that is not such a table."""
        if path is None:
            return cls()
        try:
            value = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise InvalidOptions(f"{path}: {error}") from None
        voices = value.get("voices") if isinstance(value, dict) else None
        custom = value.get("custom", "default") if isinstance(value, dict) else None
        if (
            not isinstance(voices, dict)
            or not all(isinstance(voice, str) for voice in voices.values())
            or custom not in ("default", "error")
        ):
            raise InvalidOptions(
                f'{path}: expected {{"voices": {{"their name": "our voice"}},'
                f' "custom": "default" or "error"}}'
            )
        return cls(voices, custom)

    def __call__(self, name: str | None) -> str | None:
        """The name to ask the engine for."""
        if name is None or not self.voices:
            return name
        if name in self.voices:
            return self.voices[name]
        return next((v for pattern, v in self.voices.items() if fnmatchcase(name, pattern)), name)
