"""Which frames a reply becomes, in which order."""

from __future__ import annotations

import itertools

import pytest
from pipecat.frames.frames import (
    Frame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    TTSSpeakFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
    TTSTextFrame,
)
from pipecat.metrics.metrics import TTFAMetricsData, TTFBMetricsData, TTSUsageMetricsData
from pipecat.services.tts_service import TextAggregationMode
from pipecat.tests.utils import SleepFrame
from pipecat.utils.text.transforms.strip_markdown import strip_markdown

from orpheus_plugin.events import TurnStats
from orpheus_plugin.pipecat import OrpheusTTS, OrpheusTTSService
from tests.pipecat.conversations import THREE, audio, kinds, metrics, reply, run, seconds, text
from tests.pipecat.tones import WORD_S, ToneEngine


async def test_a_reply_of_three_sentences_is_one_started_and_one_stopped_around_its_audio() -> None:
    engine = ToneEngine()
    down, errors = await run(OrpheusTTS(engine=engine), reply(THREE))
    assert [k for k in kinds(down) if k not in ("AggregatedTextFrame", "speech")] == [
        "LLMFullResponseStartFrame",
        "TTSStartedFrame",
        "TTSStoppedFrame",
        "LLMFullResponseEndFrame",
    ]
    assert kinds(down)[-3:] == ["speech", "TTSStoppedFrame", "LLMFullResponseEndFrame"]
    assert text(down) == THREE
    assert seconds(down) == pytest.approx(11 * WORD_S)
    assert len(engine.opened) == 1
    assert not errors


async def test_sentences_of_a_reply_are_generated_at_once_and_heard_in_order() -> None:
    engine = ToneEngine(speed=10)
    down, _ = await run(OrpheusTTS(engine=engine), reply(THREE))
    assert engine.most_live == 2
    assert engine.spoken == ["Hello there my friend.", "How are you today?", "I am fine."]
    assert text(down) == THREE


async def test_every_audio_frame_is_24_khz_mono_whole_samples_of_its_context() -> None:
    down, _ = await run(OrpheusTTS(engine=ToneEngine()), reply(THREE))
    started = next(frame for frame in down if isinstance(frame, TTSStartedFrame))
    assert started.context_id
    for frame in audio(down):
        assert (frame.sample_rate, frame.num_channels) == (24_000, 1)
        assert frame.audio
        assert len(frame.audio) % 2 == 0
        assert frame.context_id == started.context_id


@pytest.mark.parametrize("rate", [8_000, 16_000, 48_000])
async def test_no_sample_is_lost_or_mislabelled_when_the_pipeline_plays_at_another_rate(
    rate: int,
) -> None:
    down, _ = await run(OrpheusTTS(engine=ToneEngine()), [TTSSpeakFrame("One two.")], out_rate=rate)
    assert {frame.sample_rate for frame in audio(down)} == {24_000}
    assert sum(len(frame.audio) for frame in audio(down)) == int(2 * WORD_S * 24_000) * 2


async def test_a_sample_rate_asked_of_the_service_does_not_change_the_pitch() -> None:
    down, _ = await run(
        OrpheusTTS(engine=ToneEngine(), sample_rate=16_000), [TTSSpeakFrame("One two.")]
    )
    assert {frame.sample_rate for frame in audio(down)} == {24_000}
    assert seconds(down) == pytest.approx(2 * WORD_S)


async def test_a_second_utterance_is_generated_while_the_first_plays() -> None:
    """Frame processing is not paused: the second is being generated before the first has ended."""
    engine = ToneEngine(speed=2)
    down, _ = await run(
        OrpheusTTS(engine=engine), [TTSSpeakFrame("First one here."), TTSSpeakFrame("Second.")]
    )
    assert engine.most_live == 2
    assert text(down) == "First one here. Second."
    contexts = [f.context_id for f in down if isinstance(f, TTSStartedFrame | TTSStoppedFrame)]
    assert contexts[0] == contexts[1] != contexts[2] == contexts[3]
    assert [k for k in kinds(down) if k.startswith("TTS") or k == "speech"] == [
        "TTSStartedFrame", "speech", "TTSStoppedFrame", "TTSStartedFrame", "speech",
        "TTSStoppedFrame",
    ]  # fmt: skip


async def test_speech_requested_during_a_reply_follows_it() -> None:
    engine = ToneEngine()
    frames: list[Frame] = [
        *reply("The first sentence. The second one.")[:-1],
        TTSSpeakFrame("One moment.", append_to_context=False),
        LLMFullResponseEndFrame(),
    ]
    down, errors = await run(OrpheusTTS(engine=engine), frames)
    assert text(down) == "The first sentence. The second one."
    assert seconds(down) == pytest.approx(8 * WORD_S)
    assert not errors


@pytest.mark.parametrize("said", ["😀", "...", "  \n ", "**", "🎉 🎉", ""])
async def test_text_with_nothing_to_speak_opens_no_context_and_is_no_error(said: str) -> None:
    engine = ToneEngine()
    tts = OrpheusTTS(engine=engine)
    down, errors = await run(tts, [*reply(said or " "), TTSSpeakFrame(said), *reply(said or " ")])
    assert not engine.opened
    assert not errors
    assert tts.is_usable
    assert set(kinds(down)) == {"LLMFullResponseStartFrame", "LLMFullResponseEndFrame"}


async def test_a_transformer_added_later_may_still_give_an_emoji_words() -> None:
    async def name_it(said: str, kind: str) -> str:
        return said.replace("😀", "smile")

    engine = ToneEngine()
    tts = OrpheusTTS(engine=engine)
    tts.add_text_transformer(name_it)
    await run(tts, [TTSSpeakFrame("😀")])
    assert engine.spoken == ["smile."]


async def test_an_emotion_tag_reaches_the_model_and_is_not_a_word() -> None:
    engine = ToneEngine()
    down, _ = await run(
        OrpheusTTS(engine=engine), [TTSSpeakFrame("That is funny <laugh> and it is true.")]
    )
    assert engine.spoken == ["That is funny <laugh> and it is true."]
    words = [frame.text for frame in down if isinstance(frame, TTSTextFrame)]
    assert words
    assert "laugh" not in words
    assert text(down).split()[:3] == ["That", "is", "funny"]


async def test_pipecats_markdown_stripper_leaves_emotion_tags_to_the_model() -> None:
    engine = ToneEngine()
    tts = OrpheusTTS(engine=engine, text_transforms=[("*", strip_markdown)])
    await run(tts, [TTSSpeakFrame("That is **very** funny <laugh> and true.")])
    assert engine.spoken == ["That is very funny <laugh> and true."]


async def test_numbers_are_spoken_in_words_and_stay_as_written_in_the_context() -> None:
    engine = ToneEngine()
    down, _ = await run(OrpheusTTS(engine=engine), [TTSSpeakFrame("It costs $42.50 today.")])
    assert engine.spoken == ["It costs forty two dollars and fifty cents today."]
    assert text(down) == "It costs $42.50 today."


async def test_chinese_is_in_the_context_without_spaces() -> None:
    engine = ToneEngine()
    down, _ = await run(OrpheusTTS(engine=engine), [TTSSpeakFrame("你好吗。")])
    spoken = [frame for frame in down if kinds([frame]) == ["speech"] and frame not in audio(down)]
    assert "".join(frame.text for frame in spoken) == "你好吗。"  # type: ignore[attr-defined]
    assert all(frame.includes_inter_frame_spaces for frame in spoken)  # type: ignore[attr-defined]


async def test_in_token_mode_a_whole_reply_is_one_turn() -> None:
    engine = ToneEngine()
    tts = OrpheusTTS(engine=engine, text_aggregation_mode=TextAggregationMode.TOKEN)
    down, errors = await run(tts, reply(THREE))
    assert len(engine.opened) == 1
    assert "".join(f"{said} " for said in engine.spoken).strip() == THREE
    assert text(down) == THREE
    assert not errors


async def test_in_token_mode_a_reply_without_a_word_gives_a_short_silence() -> None:
    """Its context is open before it shows that nothing follows; Pipecat takes one without audio for
    a failure."""
    tts = OrpheusTTS(engine=ToneEngine(), text_aggregation_mode=TextAggregationMode.TOKEN)
    down, errors = await run(tts, reply("..."))
    assert 0 < seconds(down) <= 0.2
    assert not any(any(frame.audio) for frame in audio(down))
    assert not errors


async def test_a_reply_longer_than_the_limit_of_a_turn_uses_several_turns() -> None:
    engine = ToneEngine(max_chars=60, speed=500)
    said = " ".join(f"This is sentence number {n} of it." for n in "abcdef")
    down, errors = await run(OrpheusTTS(engine=engine), reply(said))
    assert len(engine.opened) > 1
    assert text(down) == said
    assert len([f for f in down if isinstance(f, TTSStartedFrame)]) == 1
    assert len([f for f in down if isinstance(f, TTSStoppedFrame)]) == 1
    assert not errors


async def test_word_times_continue_over_the_turns_of_one_reply() -> None:
    engine = ToneEngine(max_chars=60, speed=500)
    said = " ".join(f"This is sentence number {n} of it." for n in "abcdef")
    down, _ = await run(OrpheusTTS(engine=engine), reply(said))
    times = [
        frame.pts for frame in down if kinds([frame]) == ["speech"] and frame not in audio(down)
    ]
    steps = [(b - a) / 1e9 for a, b in itertools.pairwise(times)]  # type: ignore[operator]
    assert steps == pytest.approx([WORD_S] * (len(said.split()) - 1), abs=0.02)


async def test_metrics_name_the_first_byte_the_first_sound_and_the_characters() -> None:
    down, _ = await run(OrpheusTTS(engine=ToneEngine(first_s=0.1)), reply(THREE))
    first_byte = [m.value for m in metrics(down, TTFBMetricsData) if m.value]  # type: ignore[attr-defined]
    assert len(first_byte) == 1
    assert 0.1 <= first_byte[0] < 0.5
    [first_sound] = metrics(down, TTFAMetricsData)
    assert first_sound.ttfa == pytest.approx(first_byte[0], abs=0.06)  # type: ignore[attr-defined]
    assert sum(m.value for m in metrics(down, TTSUsageMetricsData)) == len(THREE) - 2  # type: ignore[attr-defined]


async def test_the_statistics_of_each_turn_are_an_event() -> None:
    seen: list[TurnStats] = []
    tts = OrpheusTTS(engine=ToneEngine())

    @tts.event_handler("on_turn_stats")
    async def note(service: OrpheusTTS, context_id: str, stats: TurnStats) -> None:
        seen.append(stats)

    await run(tts, reply(THREE))
    assert [stats.audio_s for stats in seen] == pytest.approx([11 * WORD_S])


async def test_a_pause_of_the_language_model_ends_neither_the_context_nor_the_turn() -> None:
    """Longer than the three seconds after which Pipecat by itself would end it."""
    engine = ToneEngine()
    frames: list[Frame] = [
        LLMFullResponseStartFrame(),
        LLMTextFrame("Let me look. "),
        LLMTextFrame("Wait "),
        SleepFrame(sleep=3.3),
        LLMTextFrame("a bit."),
        LLMFullResponseEndFrame(),
    ]
    down, errors = await run(OrpheusTTS(engine=engine), frames)
    assert kinds(down).count("TTSStartedFrame") == kinds(down).count("TTSStoppedFrame") == 1
    assert text(down) == "Let me look. Wait a bit."
    assert not errors


def test_the_service_has_the_name_of_pipecats_convention() -> None:
    assert OrpheusTTSService is OrpheusTTS
