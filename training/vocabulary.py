"""The token ids of the bundled voice: a small text vocabulary, then Orpheus' custom tokens."""

from __future__ import annotations

from training.codes import LETTERS, ROWS

PAD_TEXT, BOS, EOT = 0, 1, 2
FIRST_LETTER = 3
"""Letters ``LETTERS[1:]`` follow from here."""
CUSTOM = 64
"""Id of ``<custom_token_0>``; text ids lie below."""
START_OF_SPEECH, END_OF_SPEECH = CUSTOM + 1, CUSTOM + 2
START_OF_HUMAN, END_OF_HUMAN, START_OF_AI, END_OF_AI, PAD = (CUSTOM + n for n in range(3, 8))
AUDIO = CUSTOM + 10
SLOTS = 7
SIZE = AUDIO + SLOTS * ROWS
VOICE = "heart"
AFTER_TEXT = (EOT, END_OF_HUMAN, START_OF_AI, START_OF_SPEECH)


def letters(text: str) -> list[int]:
    """Ids of a text's letters; what the alphabet lacks is dropped."""
    return [FIRST_LETTER - 1 + LETTERS.index(c) for c in text.lower() if c in LETTERS[1:]]


def prompt(text: str, voice: str = VOICE) -> list[int]:
    """Orpheus' prompt: human turn with ``voice: text``, then the start of the answer's speech."""
    return [START_OF_HUMAN, BOS, *letters(f"{voice}: {text}"), *AFTER_TEXT]


def text_start(voice: str) -> int:
    """Place in the prompt of the text's first letter."""
    return 2 + len(f"{voice}: ")
