"""What a turn that lost its server says on the next one: the rest, each word once, with the right
times."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orpheus_plugin.events import SAMPLE_RATE, AudioChunk, TurnEnd, TurnEvent, TurnStats, Word
from orpheus_plugin.remote.progress import Progress

WORD = SAMPLE_RATE // 4
"""Samples of a word."""

TEXT = (
    "One two, **three** four <laugh> five. Two two! Three 3,000 six (seven) eight. Nine nine ten."
)


def spoken(text: str) -> list[TurnEvent]:
    """As a server speaks it: all words of a sentence ahead of its audio, a chunk for every third of
    a word."""
    events: list[TurnEvent] = []
    position = 0
    for index, sentence in enumerate(re.findall(r"[^.!]+[.!]?", text)):
        words = re.sub(r"<\w+>|\*\*", "", sentence).split()
        for number, word in enumerate(words):
            start_s = (position + number * WORD) / SAMPLE_RATE
            events.append(Word(word, start_s, start_s + WORD / SAMPLE_RATE, index))
        for _ in range(3 * len(words)):
            events.append(AudioChunk(bytes(2 * (WORD // 3)), position, index))
            position += WORD // 3
    return [*events, TurnEnd("done", TurnStats(audio_s=position / SAMPLE_RATE))]


@given(st.lists(st.integers(0, 30), max_size=6))
def test_every_word_comes_once_and_the_audio_has_no_hole(losses: list[int]) -> None:
    progress = Progress()
    progress.add(TEXT)
    progress.end()
    heard: list[TurnEvent] = []
    text = TEXT
    resumed = 0
    for events in losses:
        for event in spoken(text)[:events]:
            if not isinstance(event, TurnEnd):
                heard += progress.hand_over(event)
        resumed += progress.heard
        progress.resume()
        ready, rest, ended = progress.left()
        text = ready + rest
        assert ended
    for event in spoken(text):
        heard += progress.hand_over(event)
    words = [event for event in heard if isinstance(event, Word)]
    assert [word.text for word in words] == re.sub(r"<\w+>|\*\*", "", TEXT).split()
    starts = [word.start_s for word in words]
    assert starts == sorted(starts)
    at, utterance = 0, 0
    for event in heard:
        if isinstance(event, AudioChunk):
            assert event.position == at
            assert event.utterance >= utterance
            at, utterance = at + event.samples, event.utterance
        elif isinstance(event, Word):
            assert event.start_s * SAMPLE_RATE >= at or at == 0 or event.utterance > utterance
    [end] = [event for event in heard if isinstance(event, TurnEnd)]
    assert end.stats.resumed == resumed
    assert end.stats.audio_s == pytest.approx(at / SAMPLE_RATE)


def test_a_word_that_is_being_spoken_is_not_repeated() -> None:
    progress = Progress()
    progress.add("One two three.")
    for event in spoken("One two three.")[:5]:  # its words, and two thirds of the first one
        progress.hand_over(event)
    progress.resume()
    assert progress.left() == ("", " two three.", False)


def test_flushed_text_does_not_wait_at_the_next_server() -> None:
    progress = Progress()
    progress.add("One two")
    progress.flush()
    progress.add(" three")
    progress.resume()
    assert progress.left() == ("One two", " three", False)
    progress.end()
    progress.resume()
    assert progress.left() == ("One two", " three", True)


def test_a_turn_without_a_word_since_it_was_resumed_is_stuck() -> None:
    progress = Progress()
    progress.add("One two.")
    assert not progress.stuck
    progress.resume()
    assert progress.stuck
    for event in spoken("One two.")[:3]:
        progress.hand_over(event)
    assert not progress.stuck
