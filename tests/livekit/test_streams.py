"""OrpheusTTS.stream and .synthesize, as LiveKit's own classes drive them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

import pytest
from livekit.agents import tokenize, tts

from orpheus_plugin.errors import InvalidOptions, UnknownVoice
from orpheus_plugin.livekit import OrpheusTTS
from orpheus_plugin.livekit import tts as tts_module
from tests.livekit.fakes import Events, pcm, pieces, read, words
from tests.livekit.tones import PROMPT_TOKENS_PER_CHAR, TOKENS_PER_WORD, WORD_S, ToneEngine, tone

TEXT = "Hello there, my friend. How are you today? The weather is fine."
COUNT = len(TEXT.split())


async def stream_of(speech: OrpheusTTS, text: str) -> list[tts.SynthesizedAudio]:
    stream = speech.stream()
    async for piece in pieces(text):
        stream.push_text(piece)
    stream.end_input()
    return await read(stream)


async def test_audio_comes_through_to_the_last_sample(speech: OrpheusTTS) -> None:
    said = b"".join(tone(index) for index in range(COUNT))
    assert pcm(await stream_of(speech, TEXT)) == said
    assert pcm(await read(speech.synthesize(TEXT))) == said


async def test_frames_are_short_24khz_mono_and_only_the_last_is_final(speech: OrpheusTTS) -> None:
    for events in (await stream_of(speech, TEXT), await read(speech.synthesize(TEXT))):
        assert [event.is_final for event in events] == [False] * (len(events) - 1) + [True]
        assert all(0 < event.frame.duration < 0.25 for event in events)
        assert {(event.frame.sample_rate, event.frame.num_channels) for event in events} == {
            (24_000, 1)
        }


async def test_a_segment_has_one_request_id_and_one_segment_id(speech: OrpheusTTS) -> None:
    events = await stream_of(speech, TEXT)
    assert len({event.request_id for event in events}) == 1
    assert len({event.segment_id for event in events}) == 1
    assert events[0].request_id
    assert events[0].segment_id


@pytest.mark.parametrize("end", ["", " "])
async def test_words_join_to_the_text_to_its_last_character(speech: OrpheusTTS, end: str) -> None:
    """A next segment is put behind it, and the agent's memory is made of them."""
    assert "".join(words(await stream_of(speech, TEXT + end))) == TEXT + end


async def test_words_come_no_later_than_their_audio(speech: OrpheusTTS) -> None:
    events = await stream_of(speech, TEXT)
    at = 0.0
    for event in events:
        for word in words([event]):
            start, end = cast(float, word.start_time), cast(float, word.end_time)
            assert start >= at - WORD_S - 1e-6
            assert end == pytest.approx(start + WORD_S)
        at += event.frame.duration
    for index, word in enumerate(words(events)):
        assert word.start_time == pytest.approx(index * WORD_S)


async def test_speech_begins_while_text_is_still_coming(
    speech: OrpheusTTS, tones: ToneEngine
) -> None:
    async with speech.stream() as stream:
        stream.push_text("Hello there, my friend. And")
        first = await asyncio.wait_for(anext(stream), 5)
        assert first.frame.duration > 0
        stream.push_text(" now the rest.")
        stream.end_input()
        async for _ in stream:
            pass
    assert " ".join(tones.spoken) == "Hello there, my friend. And now the rest."


async def test_flush_speaks_text_without_a_sentence_end(speech: OrpheusTTS) -> None:
    async with speech.stream() as stream:
        stream.push_text("Hi")
        stream.flush()
        first = await asyncio.wait_for(anext(stream), 5)
        assert first.frame.duration > 0


@pytest.mark.parametrize("text", ["", " ", " \n\t "])
async def test_blank_text_opens_no_turn_and_is_no_error(
    speech: OrpheusTTS, tones: ToneEngine, text: str
) -> None:
    events = Events(speech)
    assert await stream_of(speech, text) == []
    assert await read(speech.synthesize(text)) == []
    assert tones.opened == []
    assert events.errors == []


async def test_a_stream_without_input_ends(speech: OrpheusTTS, tones: ToneEngine) -> None:
    stream = speech.stream()
    stream.end_input()
    assert await read(stream) == []
    assert tones.opened == []


@pytest.mark.parametrize("text", ["...", "🙂", "—"])
async def test_text_with_nothing_to_speak_gives_a_short_silence(
    speech: OrpheusTTS, text: str
) -> None:
    events = Events(speech)
    for heard in (await stream_of(speech, text), await read(speech.synthesize(text))):
        assert 0 < len(pcm(heard)) / 48_000 <= 0.2
        assert not any(pcm(heard))
    assert events.errors == []


async def test_a_stream_closed_while_speaking_frees_the_engine_at_once(
    speech: OrpheusTTS, tones: ToneEngine
) -> None:
    tones.speed = 1.0
    async with speech.stream() as stream:
        stream.push_text(TEXT)
        await anext(stream)
        assert len(tones.live) == 1
    assert len(tones.cancelled) == 1
    await asyncio.sleep(0)
    assert not tones.live


async def test_a_stream_closed_before_its_first_text_opens_nothing(
    speech: OrpheusTTS, tones: ToneEngine
) -> None:
    stream = speech.stream()
    await asyncio.sleep(0)
    await stream.aclose()
    assert tones.opened == []


async def test_closing_the_tts_ends_its_streams_and_leaves_a_given_engine_running(
    tones: ToneEngine,
) -> None:
    tones.speed = 1.0
    speech = OrpheusTTS(engine=tones)
    stream = speech.stream()
    stream.push_text(TEXT)
    await anext(stream)
    await speech.aclose()
    assert len(tones.cancelled) == 1
    assert not tones.closed
    await stream.aclose()


async def test_a_tts_made_in_a_job_is_closed_by_the_job(
    tones: ToneEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    callbacks: list[Callable[[], Awaitable[None]]] = []

    class Job:
        def add_shutdown_callback(self, callback: Callable[[], Awaitable[None]]) -> None:
            callbacks.append(callback)

    elsewhere = OrpheusTTS(engine=tones)
    monkeypatch.setattr(tts_module, "get_job_context", lambda required: Job())
    speech = OrpheusTTS(engine=tones)
    await read(elsewhere.synthesize("Hello."))
    assert callbacks == [speech.aclose]


# ---- metrics


@pytest.mark.parametrize("streamed", [True, False])
async def test_metrics_report_the_cost_of_the_segment(
    speech: OrpheusTTS, tones: ToneEngine, streamed: bool
) -> None:
    tones.first_s, tones.start_s = 0.05, 0.05
    events = Events(speech)
    for reused in (False, True):
        events.metrics.clear()
        heard = await stream_of(speech, TEXT) if streamed else await read(speech.synthesize(TEXT))
        (metrics,) = events.metrics
        assert metrics.streamed is streamed
        assert metrics.characters_count == len(TEXT)
        assert metrics.input_tokens == PROMPT_TOKENS_PER_CHAR * len(TEXT)
        assert metrics.output_tokens == COUNT * TOKENS_PER_WORD
        assert metrics.audio_duration == pytest.approx(COUNT * WORD_S, abs=0.02)
        assert 0.04 < metrics.ttfb < 2.0
        assert not metrics.cancelled
        assert metrics.request_id == heard[0].request_id
        assert metrics.connection_reused is reused
        assert (metrics.acquire_time > 0.04) is not reused
        assert metrics.metadata.model_name == "tones"
        assert metrics.metadata.model_provider == "orpheus"


async def test_the_time_to_the_first_byte_excludes_the_language_models_time(
    speech: OrpheusTTS, tones: ToneEngine
) -> None:
    tones.first_s = 0.1
    events = Events(speech)
    for text in ("It is late, is it not, my friend.", "Yes"):
        stream = speech.stream()
        for word in text.split():
            stream.push_text(word + " ")
            await asyncio.sleep(0.15)
        stream.end_input()
        await read(stream)
    assert [0.05 < metrics.ttfb < 0.4 for metrics in events.metrics] == [True, True]


async def test_prewarm_starts_the_engine_before_the_first_turn(
    speech: OrpheusTTS, tones: ToneEngine
) -> None:
    events = Events(speech)
    speech.prewarm()
    async with asyncio.timeout(5):
        while not tones.running:
            await asyncio.sleep(0.01)
    await stream_of(speech, TEXT)
    assert events.metrics[0].connection_reused


# ---- options


async def test_options_change_from_the_next_stream_on(
    speech: OrpheusTTS, tones: ToneEngine
) -> None:
    speech.update_options(voice="leo", temperature=0.3, seed=7, pronunciations={"Nguyen": "win"})
    speech.update_options(speed=1.3)
    begun = speech.stream()
    speech.update_options(voice=None, pronunciations=None, gain_db=-3.0)
    begun.push_text("Hello.")
    begun.end_input()
    await read(begun)
    await read(speech.synthesize("Hello."))
    first, second = tones.opened
    assert (first.voice, first.temperature, first.seed) == ("leo", 0.3, 7)
    assert (second.voice, second.temperature, second.seed) == (None, 0.3, 7)
    assert (first.pronunciations, second.pronunciations) == ({"Nguyen": "win"}, None)
    assert [(o.speed, o.gain_db) for o in tones.opened] == [(1.3, None), (1.3, -3.0)]


async def test_a_wrong_option_is_refused_where_it_is_given(
    speech: OrpheusTTS, tones: ToneEngine
) -> None:
    with pytest.raises(UnknownVoice, match="tara, leo"):
        OrpheusTTS(engine=tones, voice="nobody")
    with pytest.raises(InvalidOptions):
        OrpheusTTS(engine=tones, temperature=-1)
    with pytest.raises(InvalidOptions, match="speed"):
        OrpheusTTS(engine=tones, speed=0.1)
    with pytest.raises(ValueError, match="alone"):
        OrpheusTTS(engine=tones, url="http://127.0.0.1:1")
    with pytest.raises(ValueError, match="alone"):
        OrpheusTTS(engine=tones, model="mini")
    with pytest.raises(ValueError, match="alone"):
        OrpheusTTS(url="http://127.0.0.1:1", device="cpu")
    with pytest.raises(ValueError, match="address"):
        OrpheusTTS(url="ftp://nowhere")
    before = speech.speech_options
    with pytest.raises(UnknownVoice):
        speech.update_options(voice="nobody", temperature=0.1)
    assert speech.speech_options is before


async def test_it_names_its_model_voices_and_capabilities(
    speech: OrpheusTTS, tones: ToneEngine
) -> None:
    assert (speech.model, speech.provider) == ("tones", "orpheus")
    assert speech.voices == ("tara", "leo")
    assert speech.capabilities == tts.TTSCapabilities(streaming=True, aligned_transcript=True)
    assert (speech.sample_rate, speech.num_channels) == (24_000, 1)


# ---- LiveKit's tokenizers


async def test_a_given_tokenizer_decides_how_text_is_cut(tones: ToneEngine) -> None:
    tokenizer = tokenize.blingfire.SentenceTokenizer(min_sentence_len=1)
    async with OrpheusTTS(engine=tones, tokenizer=tokenizer) as speech:
        heard = await stream_of(speech, TEXT)
    assert tones.spoken == [
        "Hello there, my friend.",
        "How are you today?",
        "The weather is fine.",
    ]
    assert "".join(words(heard)).strip() == TEXT


async def test_without_a_tokenizer_the_first_clause_is_spoken_by_itself(
    speech: OrpheusTTS, tones: ToneEngine
) -> None:
    await stream_of(speech, "Well, that is a good question, and it deserves a long answer. Yes.")
    assert len(tones.spoken[0].split()) < 8


async def test_pacing_holds_text_back_while_enough_audio_is_ahead(tones: ToneEngine) -> None:
    pacer = tts.SentenceStreamPacer(min_remaining_audio=0.1, max_text_length=10)
    async with OrpheusTTS(engine=tones, text_pacing=pacer) as speech:
        stream = speech.stream()
        stream.push_text(TEXT)
        stream.end_input()
        async with stream:
            await anext(stream)
            await asyncio.sleep(0.3)
            assert tones.spoken == ["Hello there, my friend."]
            async for _ in stream:
                pass
    assert " ".join(tones.spoken) == TEXT
