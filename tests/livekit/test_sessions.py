"""Whole AgentSessions without a room: saying, replying, interrupting; and LiveKit's adapters around
OrpheusTTS."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from livekit.agents import APIConnectOptions, tts

from orpheus_plugin.errors import AtCapacity, EngineDied
from orpheus_plugin.livekit import OrpheusTTS
from tests.livekit.fakes import Events, RoteLLM, on_stage, pcm, pieces, read, words
from tests.livekit.tones import WORD_S, ToneEngine
from tests.support.virtual_time import run_in_virtual_time

LONG = " ".join(f"word{n}" for n in range(30)) + "."
NOW = APIConnectOptions(max_retry=0, retry_interval=0.0, timeout=2.0)


async def test_say_is_heard_and_captioned(speech: OrpheusTTS, tones: ToneEngine) -> None:
    events = Events(speech)
    async with on_stage(speech, use_tts_aligned_transcript=True) as stage:
        handle = stage.session.say("Hello there. Goodbye.")
        await handle
        assert not handle.interrupted
        assert len(stage.audio.pcm) / 48_000 == pytest.approx(3 * WORD_S, abs=0.02)
        assert stage.captions.text.strip() == "Hello there. Goodbye."
        assert len(events.metrics) == 1


async def test_a_session_prewarms_its_voice(speech: OrpheusTTS, tones: ToneEngine) -> None:
    async with on_stage(speech):
        async with asyncio.timeout(2):
            while not tones.running:
                await asyncio.sleep(0.01)


async def test_a_reply_is_spoken_while_the_language_model_still_writes(
    speech: OrpheusTTS, tones: ToneEngine
) -> None:
    model = RoteLLM(
        "Well, here it is. It goes on and on and then it ends.", letters=1, pause_s=0.01
    )
    async with on_stage(speech, llm=model) as stage:
        handle = stage.session.generate_reply(user_input="go on")
        await stage.speaking()
        assert len(" ".join(tones.spoken)) < len(model.reply)
        await handle
        assert " ".join(tones.spoken) == model.reply
        assert stage.last_message.text_content == model.reply


@pytest.mark.parametrize("after_s", [0.4, 1.1, 1.7, 2.6, 4.3])
@pytest.mark.parametrize("by", ["say", "reply"])
def test_an_interruption_cuts_audio_and_history_at_the_word_being_spoken(
    by: str, after_s: float
) -> None:
    """On a virtual clock: LiveKit shows words by a timer, which is late on a busy machine."""

    async def interrupt() -> None:
        tones = ToneEngine(speed=3.0)
        async with (
            OrpheusTTS(engine=tones) as speech,
            on_stage(speech, llm=RoteLLM(LONG), use_tts_aligned_transcript=True) as stage,
        ):
            session, audio = stage.session, stage.audio
            if by == "say":
                handle = session.say(pieces(LONG))
            else:
                handle = session.generate_reply(user_input="go")
            await stage.speaking()
            await audio.plays(after_s)
            await session.interrupt()
            assert audio.cleared_at is not None
            assert not tones.live
            frames = len(audio.frames)
            await handle
            assert handle.interrupted
            await asyncio.sleep(0.3)
            assert len(audio.frames) == frames
            kept = (stage.last_message.text_content or "").split()
            assert kept == LONG.split()[: len(kept)]
            # LiveKit adds a word to the history when it was heard, and shows it a little earlier.
            assert len(kept) == pytest.approx(int(audio.played_s / WORD_S), abs=1)
            assert stage.last_message.interrupted
            assert stage.captions.text.split() in (kept, LONG.split()[: len(kept) + 1])

    run_in_virtual_time(interrupt(), wall_clock=True)


async def test_the_next_turn_after_an_interruption_speaks_from_its_beginning(
    speech: OrpheusTTS, tones: ToneEngine
) -> None:
    tones.speed = 2.0
    async with on_stage(speech) as stage:
        handle = stage.session.say(LONG)
        await stage.speaking()
        await stage.session.interrupt()
        await handle
        stage.audio.frames.clear()
        await stage.session.say("Hello there.")
        assert len(stage.audio.pcm) / 48_000 == pytest.approx(2 * WORD_S, abs=0.02)


@pytest.mark.parametrize("aligned", [True, False])
async def test_captions_contain_no_emotion_tags(speech: OrpheusTTS, aligned: bool) -> None:
    async with on_stage(speech, use_tts_aligned_transcript=aligned) as stage:
        await stage.session.say("Oh <sniffle> dear <groan> me <yawn> so <laugh> it is.")
        assert stage.captions.text.split() == ["Oh", "dear", "me", "so", "it", "is."]


# ---- adapters


def broken() -> OrpheusTTS:
    return OrpheusTTS(engine=ToneEngine(failures=[EngineDied("dead")] * 99))


async def test_a_fallback_adapter_switches_to_another_tts(
    speech: OrpheusTTS, tones: ToneEngine
) -> None:
    async with broken() as first:
        both = tts.FallbackAdapter([first, speech], max_retry_per_tts=0)
        changes: list[Any] = []
        both.on("tts_availability_changed", changes.append)
        async with both:
            stream = both.stream(conn_options=NOW)
            stream.push_text("Hello there.")
            stream.end_input()
            heard = await read(stream)
            assert len(pcm(heard)) / 48_000 == pytest.approx(2 * WORD_S, abs=0.02)
            assert "".join(words(heard)).strip() == "Hello there."
            assert [(change.tts, change.available) for change in changes] == [(first, False)]
            heard = await read(both.synthesize("Hello there.", conn_options=NOW))
            assert len(pcm(heard)) / 48_000 == pytest.approx(2 * WORD_S, abs=0.02)


async def test_a_fallback_adapter_comes_back_when_the_engine_does(speech: OrpheusTTS) -> None:
    flaky = ToneEngine(failures=[EngineDied("dead")])
    async with OrpheusTTS(engine=flaky) as first:
        both = tts.FallbackAdapter([first, speech], max_retry_per_tts=0)
        back = asyncio.Event()
        both.on("tts_availability_changed", lambda change: back.set() if change.available else None)
        async with both:
            await read(both.synthesize("Hello there.", conn_options=NOW))
            await asyncio.wait_for(back.wait(), 5)
            await read(both.synthesize("And again.", conn_options=NOW))
            assert flaky.spoken[-1] == "And again."


async def test_a_fallback_adapter_gets_an_error_when_the_server_is_full(
    speech: OrpheusTTS, tones: ToneEngine
) -> None:
    full = ToneEngine(refusals=[AtCapacity("full")] * 99)
    async with (
        OrpheusTTS(engine=full) as first,
        tts.FallbackAdapter([first, speech], max_retry_per_tts=0) as both,
    ):
        assert pcm(await read(both.synthesize("Hello.", conn_options=NOW)))
    assert tones.spoken == ["Hello."]


async def test_a_stream_adapter_speaks_sentence_by_sentence(
    speech: OrpheusTTS, tones: ToneEngine
) -> None:
    adapter = tts.StreamAdapter(tts=speech)
    stream = adapter.stream()
    async for piece in pieces("This is the first sentence. Here is the second sentence."):
        stream.push_text(piece)
    stream.end_input()
    heard = await read(stream)
    assert len(tones.opened) == 2
    assert len(pcm(heard)) / 48_000 == pytest.approx(10 * WORD_S, abs=0.05)
    assert all(0 < event.frame.duration < 0.25 for event in heard)
    await adapter.aclose()


# ---- expressive


async def test_expressive_mode_instructs_the_model_and_speaks_its_sounds(
    tones: ToneEngine,
) -> None:
    said: list[str] = []
    model = RoteLLM('Well <expr type="sound" label="laugh"/> that is funny, I think so.')
    async with OrpheusTTS(engine=tones, expressive=True) as speech:
        plain = speech.synthesize

        def note(text: str, **kwargs: Any) -> Any:
            said.append(text)
            return plain(text, **kwargs)

        speech.synthesize = note  # type: ignore[method-assign]
        async with on_stage(speech, llm=model, expressive=True) as stage:
            await stage.session.generate_reply(user_input="go on")
            assert 'label="laugh"' in model.instructions
            assert "sniffle" in model.instructions
            assert said == ["Well <laugh> that is funny, I think so."]
            assert stage.captions.text.strip() == "Well that is funny, I think so."


def test_markup_is_converted_to_orpheus_tags() -> None:
    markup = OrpheusTTS(engine=ToneEngine(), expressive=True).markup
    lowered = {
        '<expr type="sound" label="giggle"/>': "<chuckle>",
        '<expr type="sound" label="clear throat">': "<cough>",
        '<expr type="sound" label="whistle"/>': "",
        '<expr type="expression" label="warm"/>Hello': "Hello",
        '<expr type="prosody" label="soft">hush</expr>': "hush",
        "ha <laugh> ha": "ha <laugh> ha",
        "3 < 4": "3 < 4",
    }
    for text, expected in lowered.items():
        assert markup.convert(markup.normalize(text)) == expected


def test_excluded_sounds_are_not_in_the_instructions() -> None:
    markup = OrpheusTTS(engine=ToneEngine(), expressive=True).markup
    taught = markup.llm_instructions(
        speech_steering={"nonverbal_sounds": {"laughing": False, "crying": False}}
    )
    assert taught is not None
    assert "laugh" not in taught
    assert "sniffle" not in taught
    assert "sigh" in taught
    silent = markup.llm_instructions(speech_steering={"nonverbal_sounds": False})
    assert silent is not None
    assert "expr" not in silent
    assert markup.info.nonverbals["laughing"] == ["laugh", "chuckle"]
