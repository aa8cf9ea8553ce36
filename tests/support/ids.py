"""Audio ids by slot and code."""

from __future__ import annotations

from orpheus_plugin.tokens.vocabulary import CODES, SLOTS, Vocabulary


def audio_id(vocabulary: Vocabulary, slot: int, code: int) -> int:
    """The id of a code (0..4095) in a slot (0..6)."""
    return vocabulary.audio_base + slot * CODES + code


def slot_and_code(vocabulary: Vocabulary, token_id: int) -> tuple[int, int] | None:
    """The slot and the code of an audio id, None for any other id."""
    slot, code = divmod(token_id - vocabulary.audio_base, CODES)
    return (slot, code) if slot in range(SLOTS) else None
