"""Which error LiveKit gets when speech fails, how often it tries again, and what a session does
then."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

import pytest
from livekit.agents import (
    APIConnectionError,
    APIConnectOptions,
    APIError,
    APIStatusError,
    APITimeoutError,
    tokenize,
    tts,
)

from orpheus_plugin.errors import (
    AtCapacity,
    BadCheckpoint,
    ConnectionFailed,
    EngineDied,
    GenerationFailed,
    InvalidOptions,
    ModelNotFound,
    OrpheusError,
    ServerNotStarted,
    ShuttingDown,
    TextTooLong,
    TurnTimedOut,
    Unauthorized,
    UnknownVoice,
)
from orpheus_plugin.livekit import OrpheusTTS
from orpheus_plugin.livekit.api_errors import to_api_error
from tests.livekit.fakes import Events, on_stage, pcm, read, words
from tests.livekit.tones import WORD_S, ToneEngine

AT_ONCE = APIConnectOptions(max_retry=3, retry_interval=0.0, timeout=5.0)
NEVER_AGAIN = APIConnectOptions(max_retry=0, timeout=5.0)


def speak(
    speech: OrpheusTTS, text: str, options: APIConnectOptions, *, streamed: bool
) -> tts.SynthesizeStream | tts.ChunkedStream:
    if not streamed:
        return speech.synthesize(text, conn_options=options)
    stream = speech.stream(conn_options=options)
    stream.push_text(text)
    stream.end_input()
    return stream


both_ways = pytest.mark.parametrize("streamed", [True, False], ids=["stream", "synthesize"])


# ---- kinds


@pytest.mark.parametrize(
    ("error", "kind", "status", "retried"),
    [
        (UnknownVoice("no voice"), APIStatusError, 400, False),
        (InvalidOptions("no"), APIStatusError, 400, False),
        (TextTooLong("long"), APIStatusError, 400, False),
        (ModelNotFound("none"), APIStatusError, 404, False),
        (Unauthorized("key"), APIStatusError, 401, False),
        (BadCheckpoint("bad"), APIStatusError, 500, False),
        (TurnTimedOut("idle"), APIStatusError, 408, False),
        (AtCapacity("full"), APIStatusError, 429, True),
        (ShuttingDown("bye"), APIStatusError, 503, True),
        (GenerationFailed("loop"), APIStatusError, 500, True),
        (EngineDied("dead"), APIStatusError, 503, True),
        (ConnectionFailed("gone"), APIConnectionError, None, True),
        (TimeoutError(), APITimeoutError, None, True),
        (ServerNotStarted("no model"), APIConnectionError, None, False),
        (OrpheusError("odd"), APIStatusError, 500, False),
        (RuntimeError("odd"), APIConnectionError, None, True),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_every_failure_has_its_kind(
    error: Exception, kind: type[APIError], status: int | None, retried: bool
) -> None:
    told = to_api_error(error)
    assert type(told) is kind
    assert told.retryable is retried
    assert getattr(told, "status_code", None) == status


def test_secrets_in_addresses_and_causes_are_not_passed_on() -> None:
    lost = ConnectionFailed("cannot reach https://me:hunter2@tts.example.org: refused")
    assert str(to_api_error(lost)) == "cannot reach https://tts.example.org: refused"
    assert "hunter2" not in str(to_api_error(RuntimeError("Authorization: hunter2")))


@both_ways
async def test_a_failure_carries_no_cause_that_could_be_logged(
    speech: OrpheusTTS, tones: ToneEngine, streamed: bool
) -> None:
    tones.refusals = [RuntimeError("Authorization: hunter2")]
    with pytest.raises(APIConnectionError) as caught:
        await read(speak(speech, "Hello.", NEVER_AGAIN, streamed=streamed))
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert "hunter2" not in str(caught.value)


# ---- trying again


@both_ways
async def test_a_temporary_failure_is_retried_with_the_whole_text(
    speech: OrpheusTTS, tones: ToneEngine, streamed: bool
) -> None:
    tones.failures = [EngineDied("dead"), ConnectionFailed("gone")]
    tones.refusals = [AtCapacity("full")]
    events = Events(speech)
    heard = await read(speak(speech, "Hello there. Goodbye.", AT_ONCE, streamed=streamed))
    assert "".join(words(heard)).strip() == "Hello there. Goodbye."
    assert len(pcm(heard)) / 48_000 == pytest.approx(3 * WORD_S)
    assert [error.recoverable for error in events.errors] == [True] * 3
    assert len(events.metrics) == 1
    assert not tones.live


@both_ways
async def test_a_permanent_failure_is_reported_after_the_last_retry(
    speech: OrpheusTTS, tones: ToneEngine, streamed: bool
) -> None:
    tones.failures = [EngineDied("dead")] * 9
    events = Events(speech)
    with pytest.raises(APIStatusError, match="dead"):
        await read(speak(speech, "Hello.", AT_ONCE, streamed=streamed))
    assert [error.recoverable for error in events.errors] == [True, True, True, False]
    assert events.metrics == []


@both_ways
async def test_an_error_that_is_not_retryable_is_not_retried(
    speech: OrpheusTTS, tones: ToneEngine, streamed: bool
) -> None:
    tones.refusals = [UnknownVoice("no voice 'x'")] * 2
    events = Events(speech)
    with pytest.raises(APIStatusError) as caught:
        await read(speak(speech, "Hello.", AT_ONCE, streamed=streamed))
    assert caught.value.status_code == 400
    assert caught.value.body == {"code": "unknown_voice"}
    assert [error.recoverable for error in events.errors] == [False]
    assert len(tones.refusals) == 1


async def test_a_stream_that_was_heard_in_part_is_not_retried(
    speech: OrpheusTTS, tones: ToneEngine
) -> None:
    tones.failures, tones.failing_after = [EngineDied("dead")], 3
    with pytest.raises(APIStatusError):
        await read(speak(speech, "One two three four five.", AT_ONCE, streamed=True))
    assert len(tones.opened) == 1


async def test_a_synthesis_heard_in_part_is_retried_under_a_new_request_id(
    speech: OrpheusTTS, tones: ToneEngine
) -> None:
    tones.failures, tones.failing_after = [EngineDied("dead")], 3
    heard = await read(speak(speech, "One two three four five.", AT_ONCE, streamed=False))
    ids = list(dict.fromkeys(event.request_id for event in heard))
    assert len(ids) == 2
    again = [event for event in heard if event.request_id == ids[1]]
    assert len(pcm(again)) / 48_000 == pytest.approx(5 * WORD_S)
    assert again[-1].is_final


# ---- waiting


@both_ways
async def test_an_engine_without_audio_times_out(
    speech: OrpheusTTS, tones: ToneEngine, streamed: bool
) -> None:
    tones.mute = True
    events = Events(speech)
    options = APIConnectOptions(max_retry=3, retry_interval=0.0, timeout=0.2)
    began = time.perf_counter()
    with pytest.raises(APITimeoutError):
        await read(speak(speech, "Hello there.", options, streamed=streamed))
    assert 0.8 <= time.perf_counter() - began < 2.0
    assert len(events.errors) == 4
    assert len(tones.cancelled) == 4
    assert events.metrics == []


async def test_an_engine_that_starts_too_slowly_times_out_and_continues_to_start(
    speech: OrpheusTTS, tones: ToneEngine
) -> None:
    tones.start_s = 0.5
    options = APIConnectOptions(max_retry=0, timeout=0.1)
    with pytest.raises(APITimeoutError):
        await read(speak(speech, "Hello.", options, streamed=True))


async def test_a_first_sentence_times_out_while_the_language_model_continues(
    speech: OrpheusTTS, tones: ToneEngine
) -> None:
    tones.mute = True
    stream = speech.stream(conn_options=APIConnectOptions(max_retry=0, timeout=0.2))
    stream.push_text("Hello there. And then")
    with pytest.raises(APITimeoutError):
        await read(stream)


async def test_waiting_for_the_language_model_never_times_out(
    speech: OrpheusTTS, tones: ToneEngine
) -> None:
    stream = speech.stream(conn_options=APIConnectOptions(max_retry=0, timeout=0.1))

    async def dictate() -> None:
        stream.push_text("So")
        await asyncio.sleep(0.3)
        stream.push_text(" this is it. And")
        await asyncio.sleep(0.3)
        stream.push_text(" that was it.")
        stream.end_input()

    dictation = asyncio.create_task(dictate())
    heard = await read(stream)
    await dictation
    assert "".join(words(heard)).strip() == "So this is it. And that was it."


async def test_an_engine_far_ahead_of_the_listener_may_pause(
    speech: OrpheusTTS, tones: ToneEngine
) -> None:
    tones.speed = 0.5  # two words of audio keep the listener busy for longer than the limit
    options = APIConnectOptions(max_retry=0, timeout=0.5)
    heard = await read(speak(speech, "One two three.", options, streamed=True))
    assert len(pcm(heard)) / 48_000 == pytest.approx(3 * WORD_S, abs=0.02)


# ---- text


@both_ways
async def test_a_text_beyond_a_turns_limit_is_spoken_to_its_end(
    speech: OrpheusTTS, tones: ToneEngine, streamed: bool
) -> None:
    tones.max_chars = 30
    events = Events(speech)
    text = "Ten of it. " * 9 + "The end."
    heard = await read(speak(speech, text, AT_ONCE, streamed=streamed))
    assert "".join(words(heard)).strip() == text
    assert len(pcm(heard)) / 48_000 == pytest.approx(29 * WORD_S)
    starts = [word.start_time for word in words(heard)]
    assert starts == pytest.approx([n * WORD_S for n in range(29)])
    assert len(tones.opened) == 4
    assert events.errors == []


async def test_a_tokenizer_that_fails_is_an_api_error(tones: ToneEngine) -> None:
    class Broken(tokenize.SentenceTokenizer):
        def tokenize(self, text: str, *, language: str | None = None) -> list[str]:
            raise NotImplementedError

        def stream(self, *, language: str | None = None) -> Any:
            raise ValueError("a secret text")

    async with OrpheusTTS(engine=tones, tokenizer=Broken()) as speech:
        with pytest.raises(APIConnectionError, match=re.escape("failed with ValueError")):
            await read(speak(speech, "Hello.", NEVER_AGAIN, streamed=True))


# ---- what a session makes of it


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(APIConnectOptions, "_interval_for_retry", lambda self, i: 0.0)


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize(
    "spoil",
    [
        lambda tones: setattr(tones, "refusals", [AtCapacity("full")] * 24),
        lambda tones: setattr(tones, "failures", [GenerationFailed("a loop")] * 24),
        None,
    ],
    ids=["server full", "speech went wrong", "nothing to speak"],
)
async def test_failed_turns_do_not_end_a_session_that_can_recover(
    speech: OrpheusTTS, tones: ToneEngine, spoil: object
) -> None:
    if callable(spoil):
        spoil(tones)
    closed: list[object] = []
    async with on_stage(speech) as stage:
        stage.session.on("close", closed.append)
        for _ in range(6):
            await stage.session.say("This cannot be said." if spoil else "...")
        tones.refusals, tones.failures = [], []
        stage.audio.frames.clear()
        await stage.session.say("Now it can.")
        assert closed == []
        assert len(stage.audio.pcm) / 48_000 == pytest.approx(3 * WORD_S, abs=0.05)


@pytest.mark.usefixtures("no_pauses")
async def test_a_voice_that_does_not_exist_ends_the_session(
    speech: OrpheusTTS, tones: ToneEngine
) -> None:
    """Four turns in a row that nothing could repair; it shows that the test above tests
    something."""
    tones.refusals = [UnknownVoice("no voice")] * 24
    closed = asyncio.Event()
    async with on_stage(speech) as stage:
        stage.session.on("close", lambda event: closed.set())
        for _ in range(4):
            await stage.session.say("This cannot be said.")
        await asyncio.wait_for(closed.wait(), 5)
