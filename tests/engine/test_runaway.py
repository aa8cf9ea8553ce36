"""The runaway guard cuts loops and endless silence, and does not cut ordinary speech."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from orpheus_plugin.engine.runaway import RunawayGuard, token_ceiling


def random_codes(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4096, (count, 3)).astype(np.int32)


def first_alarm(guard: RunawayGuard, rows: np.ndarray) -> int | None:
    return next((i for i in range(len(rows)) if guard.push_codes(rows[i : i + 1])), None)


def test_random_speech_is_not_cut() -> None:
    assert first_alarm(RunawayGuard(), random_codes(4000)) is None


def test_a_repeated_phrase_is_a_loop() -> None:
    phrase = random_codes(31)
    alarm = first_alarm(RunawayGuard(), np.tile(phrase, (20, 1)))
    assert alarm is not None
    assert alarm * 512 / 24_000 < 6.0


def test_one_held_sound_is_a_loop_but_a_long_vowel_is_not() -> None:
    held = np.tile(random_codes(1), (300, 1))
    assert first_alarm(RunawayGuard(), held) is not None
    assert first_alarm(RunawayGuard(), np.concatenate([held[:60], random_codes(500)])) is None


def test_a_word_said_three_times_is_not_a_loop() -> None:
    rows = np.concatenate([np.tile(random_codes(25), (3, 1)), random_codes(200, seed=1)])
    assert first_alarm(RunawayGuard(), rows) is None


@given(st.lists(st.integers(0, 2), max_size=120), st.integers(1, 7))
def test_a_loop_is_so_many_rows_in_a_row_that_equal_the_one_a_period_before(
    codes: list[int], chunk: int
) -> None:
    guard, most = RunawayGuard(loop_s=0.26), 12
    rows = np.array([(code, 0, 1) for code in codes], np.int32).reshape(-1, 3)

    def run(until: int, period: int) -> int:
        last = until - 1
        differs = (n for n in range(until - period) if codes[last - n] != codes[last - n - period])
        return next(differs, until - period)

    looping = [
        any(run(until, period) >= max(most, 3 * period) for period in range(1, min(until, 49)))
        for until in range(len(codes) + 1)
    ]
    for start in range(0, len(rows), chunk):
        alarm = guard.push_codes(rows[start : start + chunk])
        assert (alarm is not None) == any(looping[start + 1 : start + chunk + 1])
        if alarm:
            break


def test_endless_silence_is_cut_and_a_pause_is_not() -> None:
    guard = RunawayGuard()
    loud = np.full(2048, 0.1, np.float32)
    silence = np.zeros(2048, np.float32)
    assert guard.push_audio(loud) is None
    assert not any(guard.push_audio(silence) for _ in range(24))  # 2 s
    assert guard.push_audio(loud) is None
    assert any(guard.push_audio(silence) for _ in range(60))


def test_the_ceiling_is_whole_frames_and_grows_with_the_text() -> None:
    short, long = token_ceiling("Hi!"), token_ceiling("word " * 50)
    assert short % 7 == 0
    assert long % 7 == 0
    assert short * 2048 / 24_000 / 7 > 3.5
    assert long > short
    assert token_ceiling("Hi! <laugh>") > token_ceiling("Hi! laughed")
