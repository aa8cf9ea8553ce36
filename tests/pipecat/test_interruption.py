"""The user interrupts: the agent is silent, the engine has nothing of the reply, and the context
has the words that were heard."""

from __future__ import annotations

import asyncio

import pytest
from pipecat.frames.frames import CancelFrame, Frame, InterruptionFrame, TTSSpeakFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.tests.utils import SleepFrame
from pipecat.workers.runner import WorkerRunner

from orpheus_plugin.pipecat import OrpheusTTS
from tests.pipecat.conversations import THREE, audio, kinds, reply, run, seconds, text
from tests.pipecat.tones import WORD_S, ToneEngine


async def test_an_interruption_frees_the_engine_and_the_next_reply_is_complete() -> None:
    engine = ToneEngine(speed=2)
    frames = [*reply(THREE), SleepFrame(sleep=0.3), InterruptionFrame(), *reply("Yes?")]
    down, errors = await run(OrpheusTTS(engine=engine), frames)
    assert engine.cut_off
    assert not engine.turns
    assert engine.live == 0
    after = down[[type(f) for f in down].index(InterruptionFrame) :]
    assert text(after) == "Yes?"
    assert seconds(after) == pytest.approx(WORD_S)
    assert len({frame.context_id for frame in audio(after)}) == 1
    assert kinds(down).count("TTSStoppedFrame") == 1
    assert not errors


async def test_after_an_interruption_the_context_has_only_words_that_were_reached() -> None:
    engine = ToneEngine(speed=2)
    frames = [*reply(THREE), SleepFrame(sleep=0.3), InterruptionFrame()]
    down, _ = await run(OrpheusTTS(engine=engine), frames)
    said = text(down).split()
    assert 1 <= len(said) < 11
    assert said == THREE.split()[: len(said)]


async def test_the_interruption_does_not_wait_for_the_engine() -> None:
    """The engine may free the reply late; the frame that silences the transport is passed on at
    once."""
    engine = ToneEngine(speed=2)
    slow = engine.open_turn

    def open_turn(*args: object) -> object:
        turn = slow()
        cancel = turn.cancel

        async def late() -> None:
            turn.abandon()
            await asyncio.sleep(0.5)
            await cancel()

        turn.cancel = late  # type: ignore[method-assign]
        return turn

    engine.open_turn = open_turn  # type: ignore[method-assign, assignment]
    passed: list[float] = []
    loop = asyncio.get_running_loop()

    class Stopwatch(OrpheusTTS):
        async def push_frame(self, frame: Frame, *args: object) -> None:
            if isinstance(frame, InterruptionFrame):
                passed.append(loop.time())
            await super().push_frame(frame, *args)  # type: ignore[arg-type]

        async def process_frame(self, frame: Frame, *args: object) -> None:
            if isinstance(frame, InterruptionFrame):
                passed.append(loop.time())
            await super().process_frame(frame, *args)  # type: ignore[arg-type]

    frames = [*reply(THREE), SleepFrame(sleep=0.2), InterruptionFrame(), SleepFrame(sleep=0.1)]
    await run(Stopwatch(engine=engine), frames)
    assert passed[1] - passed[0] < 0.1


async def test_uninterruptible_speech_is_spoken_to_its_end() -> None:
    engine = ToneEngine(speed=4)
    notice = TTSSpeakFrame("This call is being recorded now.")
    notice.interruptible = False
    frames = [
        notice, *reply(THREE), SleepFrame(sleep=0.2), InterruptionFrame(), SleepFrame(sleep=0.6),
        TTSSpeakFrame("Go on."),
    ]  # fmt: skip
    down, errors = await run(OrpheusTTS(engine=engine), frames)
    assert text(down) == "This call is being recorded now. Go on."
    assert seconds(down) == pytest.approx(8 * WORD_S)
    assert engine.cut_off
    assert "This call is being recorded now." not in engine.cut_off
    assert not errors


async def test_repeated_interruptions_leave_nothing_in_the_engine() -> None:
    engine = ToneEngine(speed=3)
    frames: list[Frame] = []
    for _ in range(10):
        frames += [*reply(THREE), SleepFrame(sleep=0.05), InterruptionFrame(), InterruptionFrame()]
    down, errors = await run(OrpheusTTS(engine=engine), [*frames, TTSSpeakFrame("Now.")])
    assert not engine.turns
    assert engine.live == 0
    assert text(down).endswith("Now.")
    assert not errors


async def test_an_interruption_before_the_first_sound_is_not_reported_as_a_silent_context() -> None:
    engine = ToneEngine(first_s=5)
    tts = OrpheusTTS(engine=engine)
    frames: list[Frame] = []
    for _ in range(4):
        frames += [*reply("Hello there."), SleepFrame(sleep=0.03), InterruptionFrame()]
    _, errors = await run(tts, frames)
    assert not errors
    assert tts.is_usable
    assert not engine.turns


async def test_cancelling_the_pipeline_frees_the_engine() -> None:
    engine = ToneEngine(speed=1)
    await run(
        OrpheusTTS(engine=engine), [*reply(THREE), SleepFrame(sleep=0.1), CancelFrame()], end=False
    )
    assert not engine.turns
    assert not engine.closed  # it was not the service's own


async def test_a_pipeline_that_is_only_cleaned_up_frees_the_engine() -> None:
    """cleanup() alone must do, however the pipeline ends."""
    engine = ToneEngine(speed=1)
    worker = PipelineWorker(Pipeline([OrpheusTTS(engine=engine)]), cancel_on_idle_timeout=False)
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    running = asyncio.create_task(runner.run())
    await worker.queue_frames(reply(THREE))
    while not engine.live:
        await asyncio.sleep(0.01)
    await worker.cancel()
    await running
    assert not engine.turns
    assert engine.live == 0
