"""Speed and loudness of a turn: how long, how loud, which words when, and no click."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from orpheus_plugin.engine.config import EngineConfig
from orpheus_plugin.engine.delivery import Delivery, Tempo, with_gain
from orpheus_plugin.engine.local import LocalEngine
from orpheus_plugin.engine.pauses import SpeakingRate
from orpheus_plugin.errors import InvalidOptions
from orpheus_plugin.events import AudioChunk, TurnEvent, Word
from orpheus_plugin.options import SpeechOptions
from orpheus_plugin.text.utterance import SpokenWord
from tests.engine.test_local import TEXT, idle, pcm, settle, speak
from tests.support.recogniser import heard, word_error_rate

RATE = 24_000


def samples(events: Sequence[TurnEvent]) -> npt.NDArray[np.float64]:
    return np.frombuffer(pcm(events), "<i2") / 32_768


def words(events: Sequence[TurnEvent]) -> list[Word]:
    return [event for event in events if isinstance(event, Word)]


def tone(seconds: float = 2.0) -> npt.NDArray[np.float32]:
    at = np.arange(int(seconds * RATE)) / RATE
    return (0.5 * np.sin(2 * np.pi * 220 * at)).astype(np.float32)


def stretched(audio: npt.NDArray[np.float32], speed: float, piece: int) -> npt.NDArray[np.float32]:
    tempo = Tempo(speed)
    out = [tempo.push(audio[at : at + piece]) for at in range(0, audio.size, piece)]
    out.append(tempo.finish())
    tempo.close()
    return np.concatenate(out)


@pytest.mark.parametrize("speed", [0.5, 0.8, 1.25, 2.0])
async def test_a_speed_changes_the_length_and_positions_follow(
    crafted_engine: LocalEngine, speed: float
) -> None:
    plain = await speak(crafted_engine, TEXT, seed=5)
    changed = await speak(crafted_engine, TEXT, seed=5, speed=speed)
    assert samples(changed).size * speed == pytest.approx(samples(plain).size, rel=0.01)
    assert [w.text for w in words(changed)] == [w.text for w in words(plain)]
    position, times = 0, []
    for event in changed:
        if isinstance(event, AudioChunk):
            assert event.position == position
            position += event.samples
        elif isinstance(event, Word):
            times.append(event.start_s)
    assert times == sorted(times)
    assert 0 < times[-1] < position / RATE


@pytest.mark.parametrize("speed", [0.5, 0.8, 1.25, 2.0])
async def test_word_times_are_those_of_the_stretched_audio(
    crafted_engine: LocalEngine, speed: float
) -> None:
    audio = samples(await speak(crafted_engine, TEXT, seed=5)).astype(np.float32)
    spoken = [SpokenWord(word, word) for word in TEXT.split()]
    placed = []
    for options in (SpeechOptions(), SpeechOptions(speed=speed)):
        delivery = Delivery(spoken, options, rate=SpeakingRate(), utterance=0, position=3 * RATE)
        events: list[TurnEvent] = []
        heard_s = 3.0
        for at in range(0, audio.size, 2_048):
            for event in delivery.push(audio[at : at + 2_048]):
                if isinstance(event, AudioChunk):
                    heard_s += event.duration_s
                else:
                    assert isinstance(event, Word)
                    assert event.start_s > heard_s - 0.1
                events.append(event)
        events += [*delivery.finish(), *delivery.last_words()]
        delivery.close()
        placed.append(words(events))
    assert [w.text for w in placed[0]] == [w.text for w in placed[1]] == TEXT.split()
    for plain, changed in zip(*placed, strict=True):
        assert changed.start_s - 3 == pytest.approx((plain.start_s - 3) / speed)
        assert changed.end_s - 3 == pytest.approx((plain.end_s - 3) / speed)


@pytest.mark.parametrize("speed", [0.5, 0.7, 1.3, 2.0])
def test_a_stretched_tone_has_no_click_in_any_chunks(speed: float) -> None:
    whole = stretched(tone(), speed, RATE * 2)
    steepest = float(np.abs(np.diff(tone())).max())
    assert np.abs(np.diff(whole)).max() < 1.1 * steepest
    for piece in (480, 2_048, 5_001):
        assert np.abs(np.diff(stretched(tone(), speed, piece))).max() < 1.1 * steepest
    assert whole.size * speed == pytest.approx(2 * RATE, rel=0.01)


@pytest.mark.parametrize("gain", [-30.0, -6.0, 6.0])
async def test_a_gain_is_as_many_decibels(crafted_engine: LocalEngine, gain: float) -> None:
    plain = samples(await speak(crafted_engine, TEXT, seed=5))
    changed = samples(await speak(crafted_engine, TEXT, seed=5, gain_db=gain))
    assert changed.size == plain.size
    quiet = np.abs(plain) * 10 ** (gain / 20) < 0.7  # what is not limited
    assert quiet.mean() > 0.5
    assert changed[quiet] == pytest.approx(plain[quiet] * 10 ** (gain / 20), abs=2e-4)


def test_a_gain_never_clips_and_keeps_order() -> None:
    audio = np.linspace(-1, 1, 20_001, dtype=np.float32)
    loud = with_gain(audio, 20)
    assert np.abs(loud).max() <= 1.0
    assert (np.diff(loud) >= 0).all()
    assert loud == pytest.approx(-loud[::-1], abs=1e-6)
    assert np.abs(np.diff(loud)).max() < 11 * float(np.diff(audio).max())


async def test_the_bundled_voice_is_understood_at_any_speed() -> None:
    text = (
        "Thank you for calling. Your order will arrive on Friday, and nothing more is to be paid."
    )
    engine = LocalEngine(EngineConfig(model="mini", device="cpu", ahead_s=None))
    await engine.start()
    try:
        lengths = {}
        for speed in (0.6, 1.0, 1.6):
            events = await speak(engine, text, seed=2, speed=speed, gain_db=6.0)
            lengths[speed] = samples(events).size
            assert word_error_rate(text, heard(pcm(events))) <= 0.12, speed
        for speed, length in lengths.items():
            assert length * speed == pytest.approx(lengths[1.0], rel=0.03)
    finally:
        await engine.aclose()


async def test_an_interruption_leaves_nothing(crafted_engine: LocalEngine) -> None:
    for _ in range(5):
        turn = crafted_engine.open_turn(SpeechOptions(speed=1.5))
        turn.push_text(TEXT)
        turn.end()
        async for event in turn:
            if isinstance(event, AudioChunk):
                break
        await turn.cancel()
    await settle(lambda: idle(crafted_engine))


@pytest.mark.parametrize("speed", [0, 0.49, 2.01, -1, float("nan"), float("inf"), "fast", True])
def test_a_speed_out_of_range_is_refused(speed: object) -> None:
    with pytest.raises(InvalidOptions, match="speed must be"):
        SpeechOptions(speed=speed)  # type: ignore[arg-type]


@pytest.mark.parametrize("gain", [-41, 20.5, float("nan"), "loud", False])
def test_a_gain_out_of_range_is_refused(gain: object) -> None:
    with pytest.raises(InvalidOptions, match="gain_db must be"):
        SpeechOptions(gain_db=gain)  # type: ignore[arg-type]


async def test_without_pyav_a_speed_is_refused_with_what_to_install(
    crafted_engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "av", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InvalidOptions, match="pip install av"):
        crafted_engine.open_turn(SpeechOptions(speed=1.2))
    async with crafted_engine.open_turn(SpeechOptions(speed=1.0)) as turn:
        turn.end()
