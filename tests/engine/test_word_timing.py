"""The word timer on audio whose words are known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orpheus_plugin.engine.pauses import SpeakingRate
from orpheus_plugin.engine.word_lengths import spoken_length
from orpheus_plugin.engine.word_timing import WordTimer
from orpheus_plugin.events import Word
from orpheus_plugin.text.utterance import SpokenWord

RATE = 24000
Audio = npt.NDArray[np.float32]


def words_of(text: str) -> list[SpokenWord]:
    return [SpokenWord(word, word) for word in text.split()]


def speech(
    words: list[SpokenWord], *, speed: float = 1.0, pause_s: float = 0.35
) -> tuple[Audio, list[float]]:
    """Noise where words are, silence behind punctuation; and when each word starts."""
    rng = np.random.default_rng(1)
    parts: list[Audio] = []
    starts = []
    length = 0
    for index, word in enumerate(words):
        starts.append(length / RATE)
        count = int(spoken_length(word) * speed * RATE)
        parts.append((rng.standard_normal(count) * 0.1).astype(np.float32))
        length += count
        if word.spoken[-1] in ",.?!" and index < len(words) - 1:
            gap = int(pause_s * (1 if word.spoken[-1] != "," else 0.6) * RATE)
            parts.append((rng.standard_normal(gap) * 1e-5).astype(np.float32))
            length += gap
    return np.concatenate(parts), starts


def run(timer: WordTimer, audio: Audio, size: int = 1024) -> list[tuple[float, Word]]:
    out = []
    for place in range(0, audio.size, size):
        chunk = audio[place : place + size]
        out += [((place + chunk.size) / RATE, word) for word in timer.push(chunk)]
    return out + [(audio.size / RATE, word) for word in timer.finish()]


SENTENCE = (
    "Well, I have looked into that for you, and it seems the order left our warehouse yesterday. "
    "You should have it by Friday, at the latest. Is there anything else?"
)


@pytest.mark.parametrize("speed", [0.85, 1.0, 1.2])
def test_pauses_keep_the_estimate_near_the_truth_at_any_speed(speed: float) -> None:
    words = words_of(SENTENCE)
    audio, starts = speech(words, speed=speed)
    timed = [word for _, word in run(WordTimer(words), audio)]
    errors = [abs(word.start_s - start) for word, start in zip(timed, starts, strict=True)]
    assert np.mean(errors) < 0.18
    behind = [errors[i] for i in range(1, len(words)) if words[i - 1].written[-1] in ".,"]
    assert max(behind) < 0.16


def test_every_word_comes_once_in_order_with_rising_times_and_ends_with_the_speech() -> None:
    words = words_of(SENTENCE)
    audio, _ = speech(words)
    audio = np.concatenate([audio, np.zeros(RATE, np.float32)])
    timed = [word for _, word in run(WordTimer(words), audio)]
    assert [word.text for word in timed] == SENTENCE.split()
    starts = [word.start_s for word in timed]
    assert starts == sorted(starts)
    assert all(word.end_s >= word.start_s for word in timed)
    assert timed[-1].end_s <= audio.size / RATE - 0.5


def test_a_word_is_reported_with_the_chunk_it_starts_in() -> None:
    words = words_of(SENTENCE)
    audio, _ = speech(words)
    for until, word in run(WordTimer(words), audio, 512):
        assert word.start_s <= until


def test_words_that_a_slow_voice_leaves_fill_the_remaining_time() -> None:
    words = words_of("one two three four five six")
    audio, starts = speech(words, speed=0.5)
    timed = [word for _, word in run(WordTimer(words), audio)]
    assert len(timed) == 6
    assert timed[-1].end_s == pytest.approx(audio.size / RATE, abs=0.02)
    assert timed[-1].start_s > starts[-1] - 0.3


def test_the_rate_learned_from_one_utterance_is_used_for_the_next() -> None:
    words = words_of("this is a sentence of several words without a single pause in it")
    audio, starts = speech(words, speed=1.4)
    rate = SpeakingRate()

    def error() -> float:
        timed = [word for _, word in run(WordTimer(words, rate=rate), audio)]
        return float(np.mean([abs(t.start_s - s) for t, s in zip(timed, starts, strict=True)]))

    first = error()
    error()
    assert error() < first / 2
    assert 1.2 < rate.factor < 1.45


def test_words_with_nothing_to_speak_have_no_length() -> None:
    words = [SpokenWord("🎉", ""), *words_of("Great news"), SpokenWord("😀", "")]
    audio, _ = speech(words[1:3])
    timed = [word for _, word in run(WordTimer(words), audio)]
    assert [word.text for word in timed] == ["🎉", "Great", "news", "😀"]
    assert timed[0].start_s == timed[0].end_s == timed[1].start_s
    assert timed[3].start_s == timed[3].end_s >= timed[2].start_s


@pytest.mark.parametrize("audio", [np.zeros(0, np.float32), np.zeros(RATE, np.float32)])
def test_without_speech_the_words_come_at_the_end(audio: Audio) -> None:
    timed = [word for _, word in run(WordTimer(words_of("Hello there you")), audio)]
    assert [word.text for word in timed] == ["Hello", "there", "you"]
    assert all(0 <= word.start_s <= word.end_s <= audio.size / RATE for word in timed)


def test_an_utterance_without_words_is_accepted() -> None:
    timer = WordTimer([])
    assert timer.push(np.ones(5000, np.float32)) == []
    assert timer.finish() == []


@given(
    sizes=st.lists(st.integers(1, 9000), min_size=1, max_size=30),
    speed=st.floats(0.4, 2.5),
    text=st.lists(st.sampled_from(["a", "hello", "world.", "yes,", "internationally", "25", "你好",
    "?"]), min_size=1, max_size=20),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_any_chunking_gives_the_same_words_and_times(
    sizes: list[int], speed: float, text: list[str]
) -> None:
    words = words_of(" ".join(text))
    audio, _ = speech(words, speed=speed)
    whole = WordTimer(words)
    expected = [*whole.push(audio), *whole.finish()]
    timer = WordTimer(words)
    got: list[Word] = []
    place = 0
    for size in sizes:
        got += timer.push(audio[place : place + size])
        place += size
    got += timer.push(audio[place:])
    got += timer.finish()
    assert got == expected
    assert [word.text for word in got] == text
    starts = [word.start_s for word in got]
    assert starts == sorted(starts)


def test_words_take_their_place_in_the_turn() -> None:
    words = words_of("Hello there.")
    audio, _ = speech(words)
    alone = run(WordTimer(words), audio)
    placed = run(WordTimer(words, utterance=3, begins_s=10.0), audio)
    assert [word.utterance for _, word in placed] == [3, 3]
    assert [word.start_s - 10.0 for _, word in placed] == pytest.approx(
        [word.start_s for _, word in alone]
    )
