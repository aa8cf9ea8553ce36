"""Emotion tags: the markup that LiveKit teaches the language model, and transcripts without
tags."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from livekit.agents import tts

if TYPE_CHECKING:
    from livekit.agents.voice.agent_session import SpeechSteeringOptions

ORPHEUS_SOUNDS = ("laugh", "chuckle", "sigh", "cough", "sniffle", "groan", "yawn", "gasp")
"""The emotion tags of Orpheus 3B."""

_GOVERNED_BY = {
    "laughing": ("laugh", "chuckle"),
    "breathing": ("gasp",),
    "sighing": ("sigh",),
    "crying": ("sniffle",),
    "vocalizing": ("groan",),
    "reflex_sounds": ("cough", "yawn"),
}
_ALIASES = {
    "giggle": "chuckle",
    "laughter": "laugh",
    "laughing": "laugh",
    "chuckling": "chuckle",
    "sighing": "sigh",
    "exhale": "sigh",
    "coughing": "cough",
    "clear throat": "cough",
    "sob": "sniffle",
    "sobbing": "sniffle",
    "cry": "sniffle",
    "groaning": "groan",
    "yawning": "yawn",
    "gasping": "gasp",
    "inhale": "gasp",
}
_MARKER = re.compile(r"<expr\b(?P<attributes>[^>]*?)/?\s*>|</expr\s*>", re.IGNORECASE)
_UNCLOSED = re.compile(
    r"<expr\b(?=[^>]*\btype=\"(?:sound|break)\")([^>]*[^/>\s])\s*>", re.IGNORECASE
)
_ATTRIBUTE = re.compile(r'([\w-]+)\s*=\s*"([^"]*)"')
_NATIVE = re.compile(rf"<({'|'.join(ORPHEUS_SOUNDS)})\s*/?>", re.IGNORECASE)


class OrpheusMarkup(tts.TTS.Markup):
    """Teaches the language model `<expr type="sound" label="laugh"/>` and converts it to Orpheus'
    `<laugh>`."""

    def _provider_key(self) -> str:
        return "orpheus"

    @property
    def sounds(self) -> tuple[str, ...]:
        """The sounds of this TTS's model, as far as they are known."""
        own = getattr(self._tts, "sounds", None)
        return ORPHEUS_SOUNDS if own is None else tuple(own)

    @property
    def info(self) -> tts.tts.MarkupInfo:
        known = set(self.sounds)
        return tts.tts.MarkupInfo(
            nonverbals={
                field: [label for label in labels if label in known]
                for field, labels in _GOVERNED_BY.items()
                if known.intersection(labels)
            }
        )

    def llm_instructions(
        self, *, speech_steering: SpeechSteeringOptions | None = None
    ) -> str | None:
        if not self.sounds:
            return None
        allowed = _allowed(self.sounds, speech_steering)
        if not allowed:
            return "Write plain spoken text without any markup."
        example = allowed[0]
        return (
            "Your words are spoken aloud by a voice that can make a few human sounds. Where the"
            " moment genuinely earns"
            " one, write a self-closing marker at the place where it should be heard:\n"
            f'  <expr type="sound" label="{example}"/>\n'
            f"The label is one of: {', '.join(allowed)}. Use no other markup and at most one sound"
            " in a reply, never"
            " instead of words.\n"
            f'Example: That is a good one. <expr type="sound" label="{example}"/> Tell me another.'
        )

    def normalize(self, text: str) -> str:
        """Close markers and tags that a model left open: an open one would delay all text after
        it."""
        text = _UNCLOSED.sub(r"<expr\1/>", text)
        return _NATIVE.sub(r"<\1/>", text)

    def convert(self, text: str) -> str:
        text = _MARKER.sub(self._lower, text)
        return _NATIVE.sub(lambda match: f"<{match[1].lower()}>", text)

    def _lower(self, marker: re.Match[str]) -> str:
        attributes = dict(_ATTRIBUTE.findall(marker["attributes"] or ""))
        label = attributes.get("label", "").strip().lower()
        label = _ALIASES.get(label, label)
        if attributes.get("type") == "sound" and label in self.sounds:
            return f"<{label}>"
        return ""


def _allowed(sounds: Iterable[str], steering: SpeechSteeringOptions | None) -> list[str]:
    wanted = steering.get("nonverbal_sounds", True) if steering else True
    if wanted is False:
        return []
    if wanted is True or wanted is None:
        return list(sounds)
    flags = dict(wanted)
    silenced = {
        s for field, labels in _GOVERNED_BY.items() if not flags.get(field, True) for s in labels
    }
    return [sound for sound in sounds if sound not in silenced]


def keep_out_of_transcripts(tags: Iterable[str]) -> None:
    """Make LiveKit's transcript sinks remove these tags, as they do with the tags of known
    providers.

    They know laugh, chuckle, sigh, cough and gasp; without this, `<sniffle>`, `<groan>` and
    `<yawn>` are shown in captions. With a LiveKit version that keeps its table elsewhere it does
    nothing.
    """
    from livekit.agents.tts import _provider_format

    known = getattr(_provider_format, "_ALL_MARKUP_TAGS", None)
    if isinstance(known, list):
        known.extend(tag for tag in tags if tag not in known)
