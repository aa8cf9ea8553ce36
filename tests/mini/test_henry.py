"""The bundled model's second voice is understood, and plainly lower than the first."""

from __future__ import annotations

import pytest

from benchmarks.mini_voice import Voice, measure, summary
from training.codes import VOICES


@pytest.mark.timeout(300)
def test_the_second_voice_is_understood_and_plainly_lower() -> None:
    found = {name: summary(measure(6, voice=Voice(name=name))) for name in VOICES}
    for figures in found.values():
        assert figures["wer"] <= 0.3
        assert figures["stopped"] == 1
        assert figures["out_of_order"] == 0
    assert 110 < found["henry"]["pitch_hz"] < 0.8 * found["heart"]["pitch_hz"]
