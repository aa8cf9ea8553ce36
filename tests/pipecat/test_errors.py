"""Every failure is reported once, with the right category, and causes no delay."""

from __future__ import annotations

import time

import pytest
from pipecat.frames.frames import (
    ErrorFrame,
    Frame,
    InterruptionFrame,
    LLMFullResponseEndFrame,
    TTSSpeakFrame,
    TTSStoppedFrame,
)
from pipecat.pipeline.service_switcher import ServiceSwitcher, ServiceSwitcherStrategyFailover
from pipecat.tests.utils import SleepFrame
from pipecat.utils.errors import ErrorCategory

from orpheus_plugin.errors import (
    AtCapacity,
    BadCheckpoint,
    ConnectionFailed,
    EngineDied,
    GenerationFailed,
    ModelNotFound,
    OrpheusError,
    TextTooLong,
    UnknownVoice,
)
from orpheus_plugin.pipecat import OrpheusTTS
from orpheus_plugin.pipecat.errors import category_of
from tests.pipecat.conversations import THREE, audio, kinds, reply, run, seconds, text
from tests.pipecat.tones import WORD_S, ToneEngine
from tests.support.virtual_time import in_virtual_time


@pytest.mark.parametrize(
    ("error", "category", "permanent"),
    [
        (AtCapacity("full"), ErrorCategory.RATE_LIMIT, False),
        (EngineDied("gone"), ErrorCategory.SERVER, False),
        (GenerationFailed("noise"), ErrorCategory.SERVER, False),
        (ConnectionFailed("no"), ErrorCategory.CONNECTIVITY, False),
        (UnknownVoice("who"), ErrorCategory.APPLICATION, False),
        (TextTooLong("long"), ErrorCategory.APPLICATION, False),
        (ModelNotFound("where"), ErrorCategory.INVALID_REQUEST, True),
        (BadCheckpoint("what"), ErrorCategory.INVALID_REQUEST, True),
    ],
)
def test_errors_have_pipecats_names(
    error: OrpheusError, category: ErrorCategory, permanent: bool
) -> None:
    assert category_of(error) is category
    assert category.is_permanent is permanent


def test_other_errors_are_left_to_pipecat() -> None:
    assert category_of(ValueError("x")) is None


async def test_a_refused_reply_ends_at_once_with_one_error_and_the_service_stays_usable() -> None:
    engine = ToneEngine(max_turns=0)
    tts = OrpheusTTS(engine=engine)
    began = time.monotonic()
    down, errors = await run(tts, [*reply(THREE)] * 4)
    assert time.monotonic() - began < 1.0
    assert [e.category for e in errors if isinstance(e.exception, AtCapacity)] == [
        ErrorCategory.RATE_LIMIT
    ] * 4
    assert tts.is_usable
    assert kinds(down).count("TTSStartedFrame") == kinds(down).count("TTSStoppedFrame") == 4
    assert kinds(down).count("LLMFullResponseEndFrame") == 4


async def test_after_a_refused_reply_the_next_one_is_spoken() -> None:
    """The rest of the refused reply stays silent, although there are free places by then."""
    engine = ToneEngine(max_turns=0)
    tts = OrpheusTTS(engine=engine)

    @tts.event_handler("on_error")
    async def make_room(service: OrpheusTTS, error: ErrorFrame) -> None:
        engine.max_turns = 8

    refused = reply("Nobody hears this. Nor this.")
    refused.insert(5, SleepFrame(sleep=0.1))
    down, _ = await run(tts, [*refused, SleepFrame(sleep=0.1), *reply("But this.")])
    assert engine.spoken == ["But this."]
    assert text(down) == "But this."


late = pytest.mark.parametrize("late", [False, True], ids=["at once", "late"])


@late
async def test_a_reply_waits_for_the_place_of_the_one_it_interrupted(late: bool) -> None:
    """The engine frees its only place late: the next reply is still spoken."""
    engine = ToneEngine(speed=2, max_turns=1, release_s=0.2, refuses_late=late)
    frames = [*reply(THREE), SleepFrame(sleep=0.3), InterruptionFrame(), *reply("Yes? I am here.")]
    down, errors = await run(OrpheusTTS(engine=engine), frames)
    assert text(down).endswith("Yes? I am here.")
    after = down[[type(f) for f in down].index(InterruptionFrame) :]
    assert seconds(after) == pytest.approx(4 * WORD_S)
    assert not errors
    assert not engine.turns


@late
async def test_speech_queued_after_other_speech_waits_for_its_place(late: bool) -> None:
    engine = ToneEngine(max_turns=1, speed=10, refuses_late=late)
    frames = [TTSSpeakFrame("First one here."), *reply(THREE), TTSSpeakFrame("Third.")]
    down, errors = await run(OrpheusTTS(engine=engine), frames)
    assert text(down) == f"First one here. {THREE} Third."
    assert seconds(down) == pytest.approx(15 * WORD_S)
    assert not errors


async def test_an_engine_that_fails_ends_the_reply_without_a_stall() -> None:
    """Left to Pipecat, a reply whose last sentence brings no audio is silent for three seconds."""
    engine = ToneEngine(fail={"friend": EngineDied("the engine died")})
    tts = OrpheusTTS(engine=engine)
    began = time.monotonic()
    down, errors = await run(tts, reply("Hello there my friend."))
    assert time.monotonic() - began < 1.0
    assert kinds(down)[-2:] == ["TTSStoppedFrame", "LLMFullResponseEndFrame"]
    assert kinds(down).count("TTSStoppedFrame") == 1
    assert [e.category for e in errors if isinstance(e.exception, EngineDied)] == [
        ErrorCategory.SERVER
    ]
    assert tts.is_usable


async def test_a_reply_ends_despite_an_unexpected_exception_in_the_engine() -> None:
    engine = ToneEngine()

    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("boom")

    engine.open_turn = broken  # type: ignore[method-assign, assignment]
    began = time.monotonic()
    down, errors = await run(OrpheusTTS(engine=engine), reply(THREE))
    assert time.monotonic() - began < 1.0
    assert isinstance(down[-1], LLMFullResponseEndFrame)
    assert kinds(down).count("TTSStoppedFrame") == 1
    assert "boom" in errors[0].error
    assert not errors[0].category.is_permanent  # type: ignore[union-attr]


async def test_an_exception_in_the_service_ends_the_reply_and_frees_the_engine() -> None:
    class Faulty(OrpheusTTS):
        async def add_word_timestamps(self, *args: object, **kwargs: object) -> None:
            raise RuntimeError("boom")

    engine = ToneEngine(speed=2)
    began = time.monotonic()
    down, errors = await run(Faulty(engine=engine), [*reply(THREE), SleepFrame(sleep=0.1)])
    assert time.monotonic() - began < 2.0
    assert not engine.turns
    assert "boom" in errors[0].error
    assert kinds(down).count("TTSStoppedFrame") == 1
    assert isinstance(down[-1], LLMFullResponseEndFrame)


async def test_text_that_was_not_spoken_is_not_in_the_context() -> None:
    """Pipecat completes a context with all its text; the agent would believe it had said it."""
    engine = ToneEngine(fail={"friend": EngineDied("the engine died")}, fail_after_s=0.4)
    down, _ = await run(OrpheusTTS(engine=engine), reply("Hello there my friend."))
    assert 0 < seconds(down) < 4 * WORD_S
    assert text(down) == "Hello there"


async def test_a_refused_reply_is_not_in_the_context() -> None:
    down, _ = await run(OrpheusTTS(engine=ToneEngine(max_turns=0)), reply(THREE))
    assert text(down) == ""


async def test_after_a_failure_the_rest_of_the_reply_is_spoken_by_a_new_turn() -> None:
    engine = ToneEngine(fail={"broken": EngineDied("the engine died")})
    frames = reply("This is broken. This one is not.")
    frames.insert(5, SleepFrame(sleep=0.2))
    down, errors = await run(OrpheusTTS(engine=engine), frames)
    assert seconds(down) == pytest.approx(4 * WORD_S)
    assert len(engine.opened) == 2
    assert text(down).endswith("This one is not.")
    assert kinds(down).count("TTSStoppedFrame") == 1
    assert len([e for e in errors if isinstance(e.exception, EngineDied)]) == 1


async def test_many_failures_in_a_row_do_not_make_the_service_unusable() -> None:
    engine = ToneEngine(fail={"no": GenerationFailed("no usable speech")})
    tts = OrpheusTTS(engine=engine)
    down, _ = await run(tts, [*[TTSSpeakFrame("This no.")] * 5, TTSSpeakFrame("This yes.")])
    assert tts.is_usable
    assert text(down) == "This yes."


async def test_a_failed_reply_is_one_error_with_a_category() -> None:
    gone = ToneEngine(fail={"": ConnectionFailed("gone")})
    _, errors = await run(OrpheusTTS(engine=gone), reply(THREE))
    assert [error.category for error in errors] == [ErrorCategory.CONNECTIVITY]


ANSWERS = [
    "Zero is here.",
    "One is here.",
    "Two is here.",
    "Three is here.",
    "Four is here.",
    "Five is here.",
]


async def talk_to_a_backup(
    first: ToneEngine, replies: int, *, unusable_after_s: float
) -> tuple[list[str], OrpheusTTS]:
    """What a backup says of so many replies, one every four seconds."""
    backup = ToneEngine()
    services = [
        OrpheusTTS(engine=first, unusable_after_s=unusable_after_s),
        OrpheusTTS(engine=backup),
    ]
    frames: list[Frame] = []
    for answer in ANSWERS[:replies]:
        frames += [*reply(answer), SleepFrame(sleep=4)]
    await run(ServiceSwitcher(services, ServiceSwitcherStrategyFailover), frames)  # type: ignore[arg-type]
    return backup.spoken, services[0]


@in_virtual_time
async def test_a_switcher_uses_its_backup_if_the_engine_does_not_come_back() -> None:
    for after_s, first in ((5.0, 3), (0.0, 1), (11.0, 4)):
        gone = ToneEngine(fail={"": ConnectionFailed("gone")})
        spoken, _ = await talk_to_a_backup(gone, 6, unusable_after_s=after_s)
        assert spoken == ANSWERS[first:]


@in_virtual_time
async def test_a_switcher_keeps_an_engine_that_fails_occasionally() -> None:
    shaky = ToneEngine(fail={"One": EngineDied("dead"), "Three": EngineDied("dead")})
    spoken, tts = await talk_to_a_backup(shaky, 5, unusable_after_s=1.0)
    assert spoken == []
    assert tts.is_usable


@in_virtual_time
async def test_an_unusable_service_is_usable_again_when_its_engine_is_back() -> None:
    engine = ToneEngine(fail={"": EngineDied("dead")})
    tts = OrpheusTTS(engine=engine, unusable_after_s=0)
    usable: list[bool] = []

    @tts.event_handler("on_usable_changed")
    async def note(service: OrpheusTTS, is_usable: bool) -> None:
        usable.append(is_usable)
        engine.fail.clear()

    down, errors = await run(tts, [*reply("One."), SleepFrame(sleep=3), *reply("Two.")])
    assert usable == [False, True]
    assert text(down) == "Two."
    assert len(errors) == 1


async def test_a_busy_engine_is_waited_for_and_its_audio_has_one_started_and_one_stopped() -> None:
    """Pipecat by itself ends the context after three seconds and lets the audio follow it,
    orphaned."""
    engine = ToneEngine(first_s=3.3)
    down, errors = await run(OrpheusTTS(engine=engine), reply("Hello there."))
    assert kinds(down)[-4:] == [
        "TTSStartedFrame", "speech", "TTSStoppedFrame", "LLMFullResponseEndFrame",
    ]  # fmt: skip
    assert text(down) == "Hello there."
    assert not errors


async def test_a_hanging_engine_is_abandoned_and_its_late_audio_is_not_played() -> None:
    engine = ToneEngine(first_s=0.6)
    tts = OrpheusTTS(engine=engine, stop_frame_timeout_s=0.2)
    frames: list[Frame] = [*reply("Hello there."), SleepFrame(sleep=0.8)]
    down, _ = await run(tts, frames)
    assert not audio(down)
    assert kinds(down).count("TTSStartedFrame") == kinds(down).count("TTSStoppedFrame") == 1
    assert not engine.turns


async def test_replies_of_an_unusable_service_end_at_once_in_silence() -> None:
    tts = OrpheusTTS(engine=ToneEngine(start_error=ModelNotFound("no such model")))
    began = time.monotonic()
    down, errors = await run(tts, reply(THREE))
    assert time.monotonic() - began < 1.0
    assert not tts.is_usable
    assert "no such model" in errors[0].error
    assert isinstance(down[-1], LLMFullResponseEndFrame)
    assert not audio(down)
    assert len([f for f in down if isinstance(f, TTSStoppedFrame)]) == 1
