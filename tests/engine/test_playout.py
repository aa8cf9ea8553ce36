"""The playout clock, with a time source of the test."""

from __future__ import annotations

import pytest

from orpheus_plugin.engine.playout import PlayoutClock


class Time:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


def test_before_any_audio_nothing_is_ahead_and_no_silence_counts(time: Time) -> None:
    clock = PlayoutClock(time)
    time.now += 5
    assert not clock.begun
    assert clock.ahead_s == 0.0
    assert clock.play(1.0) == 0.0
    assert clock.begun
    assert clock.ahead_s == 1.0
    assert clock.ends_at == 106.0


def test_audio_is_queued_after_audio_that_still_plays(time: Time) -> None:
    clock = PlayoutClock(time)
    assert [clock.play(0.5) for _ in range(3)] == [0.0, 0.0, 0.0]
    time.now += 0.25
    assert clock.ahead_s == 1.25


def test_silence_between_two_pieces_is_reported_once(time: Time) -> None:
    clock = PlayoutClock(time)
    clock.play(0.5)
    time.now += 0.75
    assert clock.ahead_s == -0.25
    assert clock.play(0.5) == 0.25
    assert clock.play(0.5) == 0.0
    assert clock.ahead_s == 1.0


def test_other_audio_that_plays_first_delays_this(time: Time) -> None:
    clock = PlayoutClock(time)
    clock.delay(2.0)
    time.now += 1.0
    assert clock.play(1.0) == 0.0
    assert clock.ahead_s == 2.0


def test_an_interruption_drops_what_was_not_heard(time: Time) -> None:
    clock = PlayoutClock(time)
    clock.play(2.0)
    time.now += 0.5
    assert clock.stop() == 1.5
    assert clock.ahead_s == 0.0
    time.now += 1.0
    assert clock.stop() == 0.0
    assert clock.ahead_s == -1.0
