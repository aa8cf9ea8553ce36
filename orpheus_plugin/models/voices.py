"""Which voice speaks: one of the model's own, or a substitute for a voice of another Orpheus model
or another vendor.

Programs ask for the voices of the service they were written for: OpenAI's "alloy", Orpheus 3B's
"tara" on another model, a file of kyutai's. They get the model's default or a voice that resembles
theirs, and one warning. An unknown name is an error that lists the voices.

Names: the API references of OpenAI, Groq and Deepgram; kyutai's tts-voices; hexgrad's Kokoro-82M;
Qwen3-TTS (2026-11).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from orpheus_plugin.errors import UnknownVoice
from orpheus_plugin.models.catalog import CATALOG

logger = logging.getLogger(__name__)

DEFAULT_NAMES = ("", "default", "auto", "none")
"""Names that programs send for the default voice."""

_FEMALE, _MALE = "tara leah jess mia zoe heart", "leo dan zac henry"

ELSEWHERE: Mapping[str, str] = {
    # OpenAI
    **dict.fromkeys(("alloy",), "tara"),
    **dict.fromkeys(("coral", "nova", "marin"), "leah"),
    **dict.fromkeys(("sage", "shimmer"), "mia"),
    **dict.fromkeys(("ash", "echo", "verse"), "leo henry"),
    **dict.fromkeys(("ballad", "fable"), "dan henry"),
    **dict.fromkeys(("cedar", "onyx"), "zac henry"),
    # Groq's Orpheus and PlayAI
    **dict.fromkeys(("autumn", "diana", "hannah", "lulwa", "noura", "aisha"), "tara"),
    **dict.fromkeys(("austin", "daniel", "troy", "fahad", "sultan", "abdullah"), "leo henry"),
    "*-playai": "",
    # kyutai and unmute: files
    "unmute-prod-website/p329_022.wav": "tara",
    "unmute-prod-website/freesound/519189_*": "leo",
    "unmute-prod-website/freesound/440565_*": "dan",
    "unmute-prod-website/developer-1.mp3": "zac",
    "unmute-prod-website/ex04_narration_*": "leah",
    "unmute-prod-website/degaulle-2.wav": "pierre",
    "unmute-prod-website/developpeuse-3.wav": "amelie",
    "unmute-prod-website/fabieng-enhanced-v2.wav": "leo",
    **dict.fromkeys(("*.wav", "*.mp3", "*.flac", "*.safetensors", "custom:*"), ""),
    # Kokoro: language, then f or m
    "af_heart": "heart",
    **dict.fromkeys(("[abefhijpz]f_*", "aura-*"), _FEMALE),
    "[abefhijpz]m_*": _MALE,
    # Qwen3-TTS
    **dict.fromkeys(("vivian", "serena", "ono_anna", "sohee"), _FEMALE),
    **dict.fromkeys(("uncle_fu", "dylan", "eric", "ryan", "aiden"), _MALE),
}
"""Voices of other vendors (names in lower case, or patterns), and the most similar Orpheus
voices."""

_warned: set[tuple[str, str]] = set()
_WARNINGS = 1_000


def pick_voice(
    voices: Sequence[str], name: str | None, *, model: str, strict: bool = False
) -> str | None:
    """The voice to speak with, spelled as the model knows it.

    Args:
        voices: the model's, the default first. If it is empty, they are not known and any name
            passes.
        name: the requested voice; None is the default.
        model: its name in messages.
        strict: take no substitute for the voice of another model or vendor.

    Returns None for the default of a model that names no voices. Raises UnknownVoice, listing the
    voices.
    """
    default = voices[0] if voices else None
    if name is None:
        return default
    asked = name.strip().casefold()
    if asked in DEFAULT_NAMES:
        return default
    if not voices:
        return name
    known = {voice.casefold(): voice for voice in voices}
    if asked in known:
        return known[asked]
    alike = None if strict else _alike(asked)
    if alike is None:
        raise UnknownVoice(f"{model} has no voice {name!r}; its voices are {', '.join(voices)}")
    chosen = next((known[voice] for voice in alike if voice in known), voices[0])
    if (model, asked) not in _warned and len(_warned) < _WARNINGS:
        _warned.add((model, asked))
        logger.warning("%s has no voice %r; %r is used instead", model, name, chosen)
    return chosen


def _alike(asked: str) -> list[str] | None:
    """Voices that resemble one of another model or vendor; None for an unknown name."""
    if asked in ELSEWHERE:
        return ELSEWHERE[asked].split()
    if any(asked == voice.casefold() for spec in CATALOG.values() for voice in spec.voices):
        return _MALE.split() if asked in _MALE.split() else []
    for pattern, alike in ELSEWHERE.items():
        if fnmatchcase(asked, pattern):
            return alike.split()
    return None
