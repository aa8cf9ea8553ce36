"""Settings that can be changed while a pipeline runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from pipecat.services.settings import TTSSettings
from pipecat.utils.types import NOT_GIVEN, NotGiven, is_given

from orpheus_plugin.options import SpeechOptions


@dataclass
class OrpheusTTSSettings(TTSSettings):
    """Settings of `OrpheusTTS`. In an update, a field that is not given keeps its value; None is
    the model's default.

    Parameters:
        temperature: at least 0; 0 is greedy.
        top_p: above 0, at most 1.
        repetition_penalty: at least 1; Orpheus 3B needs 1.1 or more.
        seed: makes speech repeatable on the same engine.
        trim_leading_silence: drop the near-silence that Orpheus begins with; on by default.
        spell_numbers: write out numbers, money, dates and the like before the model reads them.
        pronunciations: written word -> how it is spoken: {"Nguyen": "win"}.
            The context keeps the written form.
        speed: 0.5 to 2; 2 is twice as fast, at the same pitch.
        gain_db: added to the loudness, -40 to 20.
    """

    temperature: float | NotGiven | None = field(default_factory=lambda: NOT_GIVEN)
    top_p: float | NotGiven | None = field(default_factory=lambda: NOT_GIVEN)
    repetition_penalty: float | NotGiven | None = field(default_factory=lambda: NOT_GIVEN)
    seed: int | NotGiven | None = field(default_factory=lambda: NOT_GIVEN)
    trim_leading_silence: bool | NotGiven | None = field(default_factory=lambda: NOT_GIVEN)
    spell_numbers: bool | NotGiven | None = field(default_factory=lambda: NOT_GIVEN)
    pronunciations: Mapping[str, str] | NotGiven | None = field(default_factory=lambda: NOT_GIVEN)
    speed: float | NotGiven | None = field(default_factory=lambda: NOT_GIVEN)
    gain_db: float | NotGiven | None = field(default_factory=lambda: NOT_GIVEN)


OPTIONS = tuple(option.name for option in fields(SpeechOptions))
"""Settings that are options of a turn. The default of each is None."""


def speech_options(settings: OrpheusTTSSettings) -> SpeechOptions:
    """The options of a turn. Raises InvalidOptions."""
    given = {name: getattr(settings, name) for name in OPTIONS}
    return SpeechOptions(
        **{name: value for name, value in given.items() if is_given(value) and value is not None}
    )


def complete_settings(given: OrpheusTTSSettings, model: str | None) -> OrpheusTTSSettings:
    """All settings: the given ones, and the model's defaults for the others."""
    defaults = dict.fromkeys((*OPTIONS, "language"))
    settings = OrpheusTTSSettings(model=model, **defaults)  # type: ignore[arg-type]
    settings.apply_update(given)
    return settings
