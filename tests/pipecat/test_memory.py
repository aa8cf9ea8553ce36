"""The agent's memory: the language model's context holds what the listener heard, not what was
planned."""

from __future__ import annotations

import asyncio
import math
import wave
from collections.abc import Callable
from pathlib import Path

import pytest
from pipecat.frames.frames import Frame, InterruptionFrame, TTSSpeakFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.workers.runner import WorkerRunner

from orpheus_plugin.pipecat import OrpheusTTS, OrpheusTTSSettings
from orpheus_plugin.pipecat.wav import WavTransport
from orpheus_plugin.speech_engine import SpeechEngine
from tests.pipecat.conversations import reply
from tests.pipecat.tones import WORD_S, ToneEngine
from tests.support.virtual_time import in_virtual_time

LONG = (
    "Once there was a lighthouse at the end of a long road. Every evening a keeper climbed its"
    " stairs. One night the wind was so strong that no ship could find the harbour."
)


async def converse(
    engine: SpeechEngine,
    path: Path,
    *steps: list[Frame] | float | Callable[[], bool],
    settings: OrpheusTTSSettings | None = None,
) -> list[str]:
    """Frames, seconds to wait, and what to wait for, before a listener in real time.

    Returns what the agent remembers having said.
    """
    transport = WavTransport(path, realtime=True)
    context = LLMContext()
    user, assistant = LLMContextAggregatorPair(context)
    tts = OrpheusTTS(engine=engine, settings=settings)
    steps_of_pipeline = [transport.input(), user, tts, transport.output(), assistant]
    worker = PipelineWorker(Pipeline(steps_of_pipeline), cancel_on_idle_timeout=False)
    ready = asyncio.Event()

    @worker.event_handler("on_pipeline_started")
    async def started(*_: object) -> None:
        ready.set()

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    running = asyncio.create_task(runner.run())
    await ready.wait()
    for step in steps:
        if isinstance(step, float):
            await asyncio.sleep(step)
        elif callable(step):
            while not step():
                await asyncio.sleep(0.005)
        else:
            await worker.queue_frames(step)
    await asyncio.sleep(0.1)
    await worker.stop_when_done()
    await running
    return [
        str(message["content"])
        for message in context.get_messages()
        if isinstance(message, dict) and message["role"] == "assistant"
    ]


def begun(path: Path) -> int:
    """How many words the listener heard at least the beginning of."""
    with wave.open(str(path)) as file:
        heard_s: float = file.getnframes() / file.getframerate()
    return math.ceil(heard_s / WORD_S - 1e-6)


@pytest.mark.parametrize("after_s", [0.6, 1.3, 2.4])
@in_virtual_time
async def test_after_an_interruption_it_holds_the_words_that_were_heard(
    after_s: float, tmp_path: Path
) -> None:
    path = tmp_path / "heard.wav"
    engine = ToneEngine(speed=20)  # all of it is generated long before it is heard
    [said] = await converse(engine, path, reply(LONG), after_s, [InterruptionFrame()])
    words = said.split()
    assert words == LONG.split()[: len(words)]
    assert len(words) == begun(path)


@in_virtual_time
async def test_it_holds_the_words_heard_of_a_reply_after_a_greeting(
    tmp_path: Path,
) -> None:
    path = tmp_path / "heard.wav"
    greeting = "Good evening to you."
    [first, second] = await converse(
        ToneEngine(speed=20),
        path,
        [TTSSpeakFrame(greeting), *reply(LONG)],
        2.3,
        [InterruptionFrame()],
    )
    assert first == greeting
    heard = begun(path) - len(greeting.split())
    assert len(second.split()) == heard


@in_virtual_time
async def test_it_holds_the_words_heard_after_a_pause_in_the_reply(tmp_path: Path) -> None:
    """The language model paused after its first sentence was heard."""
    path = tmp_path / "heard.wav"
    frames = reply(LONG)
    split = 1 + LONG.split().index("Every") + 1
    [said] = await converse(
        ToneEngine(speed=20), path, frames[:split], 4.5, frames[split:], 0.8, [InterruptionFrame()]
    )
    assert len(said.split()) == begun(path)


@in_virtual_time
async def test_it_holds_the_words_heard_after_an_uninterruptible_notice(
    tmp_path: Path,
) -> None:
    """The reply between the two was dropped: what follows is heard right behind the notice."""
    path = tmp_path / "heard.wav"
    notice = TTSSpeakFrame("This call is being recorded.")
    notice.interruptible = False
    remembered = await converse(
        ToneEngine(speed=20),
        path,
        [notice, *reply(LONG)],
        0.4,
        [InterruptionFrame(), *reply(LONG)],
        2.2,
        [InterruptionFrame()],
    )
    words = " ".join(remembered).split()
    assert words == f"{notice.text} {LONG}".split()[: len(words)]
    assert len(words) == begun(path)


@in_virtual_time
async def test_a_reply_that_was_not_interrupted_is_in_the_context_completely(
    tmp_path: Path,
) -> None:
    [said] = await converse(
        ToneEngine(speed=20), tmp_path / "heard.wav", reply("Hello there. I am fine.")
    )
    assert said == "Hello there. I am fine."
