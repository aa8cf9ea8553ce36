"""Settings: given and not given, checked early, changed while the agent talks."""

from __future__ import annotations

import pytest
from pipecat.frames.frames import Frame, TTSSpeakFrame, TTSUpdateSettingsFrame
from pipecat.services.settings import TTSSettings
from pipecat.tests.utils import SleepFrame

from orpheus_plugin.errors import InvalidOptions, UnknownVoice
from orpheus_plugin.pipecat import OrpheusTTS
from tests.pipecat.conversations import kinds, reply, run, text
from tests.pipecat.tones import ToneEngine

Settings = OrpheusTTS.Settings


def update(**changes: object) -> TTSUpdateSettingsFrame:
    return TTSUpdateSettingsFrame(delta=Settings(**changes))  # type: ignore[arg-type]


async def test_settings_that_are_not_given_are_the_models_defaults() -> None:
    engine = ToneEngine()
    tts = OrpheusTTS(engine=engine)
    await run(tts, [TTSSpeakFrame("One.")])
    [options] = engine.opened
    assert (options.voice, options.temperature, options.top_p) == ("tara", None, None)
    assert tts.settings.model == "tones"


async def test_settings_given_at_the_start_reach_the_engine() -> None:
    engine = ToneEngine()
    settings = Settings(voice="leo", temperature=0.4, top_p=0.9, repetition_penalty=1.3, seed=7)
    await run(OrpheusTTS(engine=engine, settings=settings), [TTSSpeakFrame("One.")])
    [options] = engine.opened
    assert options.voice == "leo"
    assert (options.temperature, options.top_p) == (0.4, 0.9)
    assert (options.repetition_penalty, options.seed) == (1.3, 7)


async def test_leading_silence_is_kept_on_request() -> None:
    engine = ToneEngine()
    tts = OrpheusTTS(engine=engine, settings=Settings(trim_leading_silence=False))
    await run(
        tts, [TTSSpeakFrame("One."), update(trim_leading_silence=True), TTSSpeakFrame("Two.")]
    )
    assert [options.trim_leading_silence for options in engine.opened] == [False, True]


async def test_pronunciations_reach_the_engine_and_can_change() -> None:
    engine = ToneEngine()
    tts = OrpheusTTS(engine=engine, settings=Settings(pronunciations={"Nguyen": "win"}))
    down, errors = await run(
        tts,
        [
            TTSSpeakFrame("Hello Nguyen."),
            update(pronunciations={"Siobhan": "shivawn"}, spell_numbers=True),
            TTSSpeakFrame("Hello Siobhan."),
            update(pronunciations={"": "nothing"}),
        ],
    )
    first, second = engine.opened
    assert first.pronunciations == {"Nguyen": "win"}
    assert second.pronunciations == {"Siobhan": "shivawn"}
    assert second.spell_numbers is True
    assert text(down) == "Hello Nguyen. Hello Siobhan."
    assert [type(error.exception) for error in errors] == [InvalidOptions]


async def test_speed_and_loudness_reach_the_engine_and_are_checked() -> None:
    engine = ToneEngine()
    tts = OrpheusTTS(engine=engine, settings=Settings(speed=1.2))
    changes = [update(speed=0.8, gain_db=-6.0), update(speed=9.0)]
    _, errors = await run(tts, [TTSSpeakFrame("One."), *changes, TTSSpeakFrame("Two.")])
    assert [(o.speed, o.gain_db) for o in engine.opened] == [(1.2, None), (0.8, -6.0)]
    assert [type(error.exception) for error in errors] == [InvalidOptions]


async def test_a_change_of_one_setting_leaves_the_others() -> None:
    engine = ToneEngine()
    tts = OrpheusTTS(engine=engine, settings=Settings(temperature=0.4, seed=7))
    await run(tts, [TTSSpeakFrame("One."), update(voice="leo"), TTSSpeakFrame("Two.")])
    first, second = engine.opened
    assert (first.voice, second.voice) == ("tara", "leo")
    assert (second.temperature, second.seed) == (0.4, 7)


async def test_none_restores_the_models_default() -> None:
    engine = ToneEngine()
    tts = OrpheusTTS(engine=engine, settings=Settings(temperature=0.4, voice="leo"))
    await run(tts, [update(temperature=None, voice=None), TTSSpeakFrame("Two.")])
    assert (engine.opened[0].temperature, engine.opened[0].voice) == (None, "tara")


async def test_a_change_during_a_reply_applies_from_the_next_sentence_in_the_same_context() -> None:
    engine = ToneEngine()
    frames: list[Frame] = reply("The first sentence. The second one.")
    frames.insert(5, update(voice="leo"))  # "The" of the second is there: the first has been said
    down, errors = await run(OrpheusTTS(engine=engine), frames)
    assert [options.voice for options in engine.opened] == ["tara", "leo"]
    assert engine.spoken == ["The first sentence.", "The second one."]
    assert text(down) == "The first sentence. The second one."
    assert kinds(down).count("TTSStartedFrame") == kinds(down).count("TTSStoppedFrame") == 1
    assert not errors


def test_an_unknown_voice_is_refused_by_the_constructor() -> None:
    with pytest.raises(UnknownVoice, match="tara, leo"):
        OrpheusTTS(engine=ToneEngine(), settings=Settings(voice="nobody"))


def test_sampling_out_of_range_is_refused_by_the_constructor() -> None:
    with pytest.raises(InvalidOptions, match="top_p"):
        OrpheusTTS(engine=ToneEngine(), settings=Settings(top_p=1.5))


async def test_an_unknown_voice_in_an_update_keeps_the_old_one() -> None:
    engine = ToneEngine()
    tts = OrpheusTTS(engine=engine)
    frames = [
        update(voice="nobody", temperature=0.3),
        *[update(temperature=99)] * 3,
        SleepFrame(sleep=0.05),
        TTSSpeakFrame("Still here."),
    ]
    down, errors = await run(tts, frames)
    assert "nobody" in errors[0].error
    assert len(errors) == 4
    assert not any(error.category and error.category.is_permanent for error in errors)
    assert tts.is_usable
    assert (engine.opened[0].voice, engine.opened[0].temperature) == ("tara", 0.3)
    assert text(down) == "Still here."


async def test_the_model_cannot_change_while_it_runs() -> None:
    tts = OrpheusTTS(engine=ToneEngine())
    await run(tts, [update(model="another")])
    assert tts.settings.model == "tones"


async def test_an_update_of_any_tts_service_is_understood() -> None:
    engine = ToneEngine()
    plain = TTSUpdateSettingsFrame(delta=TTSSettings(voice="leo"))
    await run(OrpheusTTS(engine=engine), [plain, TTSSpeakFrame("One.")])
    assert engine.opened[0].voice == "leo"


async def test_an_update_object_is_not_modified() -> None:
    frame = update(voice="nobody")
    await run(OrpheusTTS(engine=ToneEngine()), [frame])
    assert frame.delta is not None
    assert frame.delta.voice == "nobody"


def test_one_engine_is_chosen_in_one_way() -> None:
    with pytest.raises(InvalidOptions, match="alone"):
        OrpheusTTS(engine=ToneEngine(), url="ws://localhost:1")
    with pytest.raises(InvalidOptions, match="alone"):
        OrpheusTTS(url="ws://localhost:1", model="orpheus-3b")


def test_the_environment_may_name_this_machines_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORPHEUS_URL", "local")
    assert OrpheusTTS().engine is OrpheusTTS(url="local").engine
