"""The operator's own table of voice names, which comes before those in `models.voices`.

A JSON object: {"voices": {"name or pattern *": "tara", ...}, "custom": "default" or "error"}.
"custom" decides what happens to voices that a client sends as an embedding, which Orpheus cannot
use.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

import msgspec

from orpheus_plugin.errors import InvalidOptions


class VoiceMap(msgspec.Struct, frozen=True):
    """The voices that speak for names of the table."""

    voices: dict[str, str] = {}
    custom: Literal["default", "error"] = "default"

    @classmethod
    def load(cls, path: Path | None) -> VoiceMap:
        """Raises InvalidOptions for a file that is not such a table."""
        if path is None:
            return cls()
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except (OSError, ValueError) as error:
            raise InvalidOptions(
                f'{path}: {error}; expected {{"voices": {{"their name": "our voice"}},'
                f' "custom": "default" or "error"}}'
            ) from None

    def __call__(self, name: str | None) -> str | None:
        """The name to ask the engine for."""
        if name is None or not self.voices:
            return name
        if name in self.voices:
            return self.voices[name]
        return next((v for pattern, v in self.voices.items() if fnmatchcase(name, pattern)), name)
