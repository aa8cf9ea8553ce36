"""The time at which each word is reported, against the time at which its audio is heard."""

from __future__ import annotations

import itertools
import time

import pytest
from pipecat.frames.frames import (
    Frame,
    InterruptionFrame,
    LLMTextFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    TTSTextFrame,
)
from pipecat.processors.frame_processor import FrameDirection
from pipecat.tests.utils import SleepFrame

from orpheus_plugin.pipecat import OrpheusTTS
from tests.pipecat.conversations import THREE, reply, run
from tests.pipecat.tones import WORD_S, ToneEngine


class Heard(OrpheusTTS):
    """Listens at the service's output to a player that plays at once, and notes times on the
    pipeline's clock."""

    def listen(self) -> Heard:
        self.playing_until = 0.0
        self.audio: list[tuple[float, float]] = []  # heard from, seconds
        self.words: list[tuple[str, float]] = []
        return self

    async def push_frame(
        self, frame: Frame, direction: FrameDirection = FrameDirection.DOWNSTREAM
    ) -> None:
        if isinstance(frame, TTSAudioRawFrame):
            start = max(self.playing_until, self.get_clock().get_time() / 1e9)
            self.playing_until = start + len(frame.audio) / 48_000
            self.audio.append((start, len(frame.audio) / 48_000))
        elif isinstance(frame, InterruptionFrame):
            self.playing_until = 0.0
        elif isinstance(frame, TTSTextFrame) and frame.pts:
            self.words.append((frame.text, frame.pts / 1e9))
        await super().push_frame(frame, direction)

    def true_times(self) -> list[float]:
        """Every word is a quarter of a second: when each was heard."""
        times: list[float] = []
        done = 0.0
        for start, length in self.audio:
            while len(times) * WORD_S < done + length - 1e-6:
                times.append(start + len(times) * WORD_S - done)
            done += length
        return times


def assert_on_time(tts: Heard) -> None:
    said = [at for _, at in tts.words]
    assert said == pytest.approx(tts.true_times()[: len(said)], abs=0.03)


async def test_words_are_on_time_in_a_reply_that_flows() -> None:
    tts = Heard(engine=ToneEngine()).listen()
    await run(tts, reply(THREE))
    assert " ".join(word for word, _ in tts.words) == THREE
    assert_on_time(tts)


async def test_words_after_a_pause_of_the_language_model_are_not_early() -> None:
    """Otherwise an interruption finds words in the agent's memory that nobody has heard."""
    tts = Heard(engine=ToneEngine()).listen()
    frames = reply("Hello there. How are you?")
    frames.insert(4, SleepFrame(sleep=1.2))
    await run(tts, frames)
    how = tts.words[2]
    assert how[0] == "How"
    assert how[1] - tts.words[0][1] > 1.0
    assert_on_time(tts)


async def test_words_of_a_slow_engine_are_not_early() -> None:
    tts = Heard(engine=ToneEngine(speed=0.8)).listen()
    await run(tts, reply("One two three four five six."))
    assert tts.words[-1][1] - tts.words[0][1] > 5 * WORD_S
    assert_on_time(tts)


async def test_words_of_a_queued_utterance_wait_for_the_end_of_the_one_before() -> None:
    tts = Heard(engine=ToneEngine()).listen()
    await run(tts, [TTSSpeakFrame("First one here."), TTSSpeakFrame("The second follows.")])
    assert_on_time(tts)


async def test_words_after_an_interruption_count_from_the_new_audio() -> None:
    tts = Heard(engine=ToneEngine()).listen()
    long = "This is a rather long reply, and all of its audio is there at once. " * 2
    await run(tts, [*reply(long), SleepFrame(sleep=0.4), InterruptionFrame()])
    before = len(tts.words)
    tts = Heard(engine=ToneEngine()).listen()
    await run(
        tts,
        [*reply(long), SleepFrame(sleep=0.4), InterruptionFrame(), *reply("I am sorry.")],
    )
    assert before
    [*_, i, am, sorry] = tts.words
    first_after = next(at for at, _ in reversed(tts.audio) if at <= i[1] + 0.02)
    assert i[1] == pytest.approx(first_after, abs=0.03)
    assert (am[1] - i[1], sorry[1] - am[1]) == pytest.approx((WORD_S, WORD_S), abs=0.02)


async def test_a_short_first_sentence_is_followed_without_a_gap() -> None:
    """The next sentence is being generated while the first is heard; alone it would be too late."""
    tts = Heard(engine=ToneEngine(first_s=0.3, speed=5)).listen()
    await run(tts, reply("Hello you. It is good to see you again."))
    steps = [b - a for (_, a), (_, b) in itertools.pairwise(tts.words)]
    assert steps == pytest.approx([WORD_S] * 8, abs=0.03)


async def test_sentences_are_joined_while_the_listener_has_enough_and_flushed_in_time() -> None:
    """Three seconds are there when the short sentences come; for a while nothing follows them."""
    engine = ToneEngine(speed=200)
    tts = Heard(engine=engine).listen()
    first = "Count one two three four five six seven eight nine ten eleven twelve."
    frames = [
        *reply(f"{first} Good. And on. Now wait")[:-1],
        SleepFrame(sleep=1.6),
        LLMTextFrame(" here."),
        *reply("x")[-1:],
    ]
    began = time.monotonic()
    await run(tts, frames)
    assert time.monotonic() - began < 3
    assert engine.spoken == [first, "Good. And on.", "Now wait here."]
    assert " ".join(word for word, _ in tts.words).endswith("Now wait here.")
