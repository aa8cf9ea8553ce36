"""The common part of speech engines without a model: the properties that an adapter reads, and a
record of its calls."""

from __future__ import annotations

from dataclasses import dataclass, field

from orpheus_plugin.errors import UnknownVoice
from orpheus_plugin.options import MAX_TEXT_CHARS, SpeechOptions


@dataclass
class Tones:
    """Half of a SpeechEngine. Turns, health and load are the adapter's own.

    Attributes:
        start_s: seconds until it runs.
        max_chars: of a turn.
        opened, spoken: the options and the utterances of its turns.
    """

    start_s: float = 0.0
    max_chars: int = MAX_TEXT_CHARS
    voices: tuple[str, ...] = ("tara", "leo")
    adapters: tuple[str, ...] = ()
    languages: tuple[str, ...] = ("en",)
    tags: tuple[str, ...] = (
        "laugh",
        "chuckle",
        "sigh",
        "cough",
        "sniffle",
        "groan",
        "yawn",
        "gasp",
    )
    opened: list[SpeechOptions] = field(default_factory=list)
    spoken: list[str] = field(default_factory=list)
    closed: bool = False

    async def aclose(self) -> None:
        self.closed = True

    def check_voice(self, voice: str | None) -> str | None:
        if voice is None:
            return self.voices[0]
        if voice not in self.voices:
            raise UnknownVoice(f"no voice {voice!r}; there are {', '.join(self.voices)}")
        return voice
