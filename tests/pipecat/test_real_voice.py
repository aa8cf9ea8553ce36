"""The service with the engine and the bundled voice: what is heard, not what was framed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pipecat.frames.frames import InterruptionFrame, TTSSpeakFrame
from pipecat.metrics.metrics import TTFAMetricsData, TTFBMetricsData
from pipecat.tests.utils import SleepFrame

from orpheus_plugin.engine import LocalEngine
from orpheus_plugin.models import known_models
from orpheus_plugin.pipecat import OrpheusTTS
from tests.pipecat.conversations import audio, metrics, reply, run, text
from tests.pipecat.hearing import UNDERSTOOD, empty_frames, levels, read_wav, recognise, understood
from tests.pipecat.test_memory import converse

pytestmark = pytest.mark.skipif("mini" not in known_models(), reason="no bundled voice")

SAID = "Hello there. The weather is very nice today."


async def test_a_reply_is_heard_whole_from_its_first_word_to_its_last(
    mini_engine: LocalEngine,
) -> None:
    tts = OrpheusTTS(engine=mini_engine, settings=OrpheusTTS.Settings(seed=1))
    down, errors = await run(tts, reply(SAID))
    samples = np.frombuffer(b"".join(frame.audio for frame in audio(down)), "<i2")
    assert understood(SAID, samples, 24_000) >= UNDERSTOOD
    assert text(down) == SAID
    assert empty_frames(samples, 24_000) == 0
    assert not errors


async def test_the_first_audio_is_already_sound(mini_engine: LocalEngine) -> None:
    """Silence in front of it would be waited for like computation."""
    tts = OrpheusTTS(engine=mini_engine, settings=OrpheusTTS.Settings(seed=1))
    down, _ = await run(tts, reply(SAID))
    samples = np.frombuffer(b"".join(frame.audio for frame in audio(down)), "<i2")
    assert (levels(samples[: 24_000 // 10], 24_000) > 0.005).any()
    [first_byte] = [m.value for m in metrics(down, TTFBMetricsData) if m.value]  # type: ignore[attr-defined]
    [first_sound] = metrics(down, TTFAMetricsData)
    assert first_sound.ttfa - first_byte < 0.1  # type: ignore[attr-defined]


async def test_an_interruption_leaves_the_engine_idle(mini_engine: LocalEngine) -> None:
    frames = [
        *reply(f"{SAID} {SAID} {SAID}"),
        SleepFrame(sleep=0.5),
        InterruptionFrame(),
        SleepFrame(sleep=0.3),
    ]
    down, errors = await run(OrpheusTTS(engine=mini_engine), [*frames, TTSSpeakFrame("Yes.")])
    assert mini_engine.health().active_turns == 0
    assert text(down).endswith("Yes.")
    assert not errors


async def test_text_the_model_has_nothing_to_say_for_is_passed_over(
    mini_engine: LocalEngine,
) -> None:
    tts = OrpheusTTS(engine=mini_engine)
    _, errors = await run(
        tts, [TTSSpeakFrame("😀"), TTSSpeakFrame("<laugh>"), TTSSpeakFrame("...")]
    )
    assert not errors
    assert tts.is_usable


async def test_the_agent_remembers_the_words_that_were_heard(
    mini_engine: LocalEngine, real_time: float, tmp_path: Path
) -> None:
    path = tmp_path / "heard.wav"
    long = "The train to the city leaves at seven. The train to the sea leaves at nine. You may take either one."
    [said] = await converse(mini_engine, path, reply(long), 3.6, [InterruptionFrame()])
    heard = recognise(*read_wav(path))
    # The bundled voice is not read without errors by the recogniser: its count of words is no exact measure.
    assert len(said.split()) == pytest.approx(len(heard), abs=4), (said, heard)
