"""The options of a turn, their limits, and checks of their values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orpheus_plugin.errors import InvalidOptions
from orpheus_plugin.text.pronunciations import Pronunciations

SPEEDS = (0.5, 2.0)
GAINS_DB = (-40.0, 20.0)
"""The lowest and the highest value that a turn accepts."""

MAX_WAIT_S = 600.0
"""The longest `max_wait_s` of a turn."""

MAX_TEXT_CHARS = 6_144
"""Characters of text one turn takes unless the engine is configured otherwise."""


@dataclass(frozen=True, slots=True)
class SpeechOptions:
    """The options of a turn. None means the model's own default.

    Attributes:
        voice: a voice of the model; None is its first.
        temperature: >= 0; 0 is greedy.
        top_p: in (0, 1].
        repetition_penalty: >= 1; Orpheus 3B needs >= 1.1.
        seed: makes the turn repeatable on the same engine; None draws a random one.
        trim_leading_silence: drop the near-silence before the first sound, except for 50 ms.
            Orpheus starts with 0.4 to 0.7 s of it (canopyai/Orpheus-TTS issues 228 and 299).
        spell_numbers: write out numbers, money, dates and the like before the model reads them;
            None is the engine's setting.
        pronunciations: written word -> how it is spoken, in addition to the engine's own; see
            `text.Pronunciations`.
        speed: of speech at the same pitch, 0.5 to 2; 2 is twice as fast. Word times and positions
            are those of the audio as it is heard.
        gain_db: added to the loudness, -40 to 20; speech that gets too loud is limited, not
            clipped.
    """

    voice: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    trim_leading_silence: bool = True
    spell_numbers: bool | None = None
    pronunciations: Mapping[str, str] | None = None
    speed: float | None = None
    gain_db: float | None = None

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, 0.0, 5.0)
        check_number("top_p", self.top_p, 0.0, 1.0, open_low=True)
        check_number("repetition_penalty", self.repetition_penalty, 1.0, 5.0)
        check_number("speed", self.speed, *SPEEDS)
        check_number("gain_db", self.gain_db, *GAINS_DB)
        if self.voice is not None and not isinstance(self.voice, str):
            raise InvalidOptions(f"voice must be a string, not {type(self.voice).__name__}")
        if self.seed is not None and (
            isinstance(self.seed, bool)
            or not isinstance(self.seed, int)
            or not 0 <= self.seed < 2**63
        ):
            raise InvalidOptions(f"seed must be an integer from 0 to 2**63 - 1, not {self.seed!r}")
        if self.spell_numbers is not None and not isinstance(self.spell_numbers, bool):
            raise InvalidOptions(
                f"spell_numbers must be true or false, not {type(self.spell_numbers).__name__}"
            )
        if self.pronunciations is not None:
            object.__setattr__(self, "pronunciations", Pronunciations(self.pronunciations))


def check_number(
    name: str, value: object, low: float, high: float, *, open_low: bool = False
) -> None:
    """Raises InvalidOptions unless the value is None or a number from `low` (or above it) to
    `high`."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidOptions(f"{name} must be a number, not {type(value).__name__}")
    if not low <= value <= high or (open_low and value == low):
        left = "more than" if open_low else "at least"
        raise InvalidOptions(f"{name} must be {left} {low:g} and at most {high:g}, not {value!r}")


def check_count(name: str, value: object, low: int) -> None:
    """Raises InvalidOptions unless the value is None or a whole number of at least `low`."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < low):
        raise InvalidOptions(f"{name} must be a whole number of at least {low}, not {value!r}")
