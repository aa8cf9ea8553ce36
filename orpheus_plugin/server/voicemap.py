"""Voice names of other systems -> voices of the model: a table its user may replace.

A JSON object: {"voices": {"name or pattern *": "tara", ...}, "custom": "default" or "error"}. "custom" says what happens
to voices that a client brings along as an embedding, which Orpheus cannot speak with.
"""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from orpheus_plugin.errors import InvalidOptions, UnknownVoice
from orpheus_plugin.turn import SpeechEngine

BUILT_IN = Path(__file__).parent / "voices.json"


class VoiceMap:
    """What to speak with when a client asks for a voice of elsewhere."""

    def __init__(
        self, table: dict[str, str], *, custom: Literal["default", "error"] = "default"
    ) -> None:
        self.custom = custom
        self._table = table

    @classmethod
    def load(cls, path: Path | None = None) -> VoiceMap:
        """Raises InvalidOptions for a file that is not such a table."""
        try:
            value = json.loads((path or BUILT_IN).read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise InvalidOptions(f"{path}: {error}") from None
        table = value.get("voices") if isinstance(value, dict) else None
        custom = value.get("custom", "default") if isinstance(value, dict) else None
        if (
            not isinstance(table, dict)
            or not all(isinstance(voice, str) for voice in table.values())
            or custom not in ("default", "error")
        ):
            raise InvalidOptions(
                f'{path}: expected {{"voices": {{"their name": "our voice"}}, "custom": "default" or "error"}}'
            )
        return cls(table, custom=custom)

    def find(self, engine: SpeechEngine, name: str | None) -> str | None:
        """The model's voice for this name; None, its default, when the table has none. Never refuses."""
        if name is None:
            return None
        for voice in (name, self._lookup(name)):
            try:
                if voice is not None and (engine.voices or voice != name):
                    return engine.check_voice(voice)
            except UnknownVoice:
                continue
        return None

    def require(self, engine: SpeechEngine, name: str | None) -> str | None:
        """As `find`, for protocols whose clients can be told: raises UnknownVoice for a name that nobody knows."""
        if name is None:
            return None
        if (voice := self._lookup(name)) is None:
            return engine.check_voice(name)
        return self.find(engine, name) or engine.check_voice(None) or voice

    def _lookup(self, name: str) -> str | None:
        if name in self._table:
            return self._table[name]
        return next((v for pattern, v in self._table.items() if fnmatchcase(name, pattern)), None)
