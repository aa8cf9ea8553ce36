"""A fast start speaks after one frame, never repeats or drops a sample, and becomes exact."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orpheus_plugin.codec import CodecBatcher
from orpheus_plugin.codec.fast_start import FADE_SAMPLES, HOLD_BACK_SAMPLES, Joiner
from tests.support.codecs import SMALL

from .conftest import make_decoder, make_reference, random_latents, reference_decode

REFERENCE = make_reference(SMALL)
DECODER = make_decoder(REFERENCE, SMALL)


@settings(max_examples=40, deadline=None)
@given(
    frames=st.integers(1, 10),
    guesses=st.lists(st.tuples(st.booleans(), st.integers(1, 5000)), min_size=10, max_size=10),
    error=st.floats(-0.5, 0.5),
)
def test_joined_pieces_are_whole_and_differ_only_where_guessed(frames, guesses, error):
    """The truth is a ramp, so a repeated or dropped sample would show as a jump. A guess is wrong by `error`, except
    right behind the exact samples, which it continues."""
    total, delay = 2048 * frames, 4757
    truth = np.arange(total + 8000, dtype=np.float32) / 1000
    wrong = np.float32(error) * np.minimum(np.arange(5120, dtype=np.float32) / FADE_SAMPLES, 1)
    joiner, pieces, guessed_to = Joiner(), [], 0
    for frame in range(1, frames + 1):
        final = max(0, 2048 * frame - delay)
        pieces.append(joiner.add_exact(truth[joiner.exact : final]))
        guess, most = guesses[frame - 1]
        if guess:
            piece = joiner.add_guess(truth[final : final + 5120] + wrong, 4 * frame, most)
            assert len(piece) <= most
            pieces.append(piece)
            guessed_to = joiner.sent + FADE_SAMPLES if len(piece) else guessed_to
        assert joiner.sent <= 2048 * frame
    pieces.append(joiner.add_exact(truth[joiner.exact : total]))
    got = np.concatenate(pieces)
    assert got.shape == (total,)
    assert np.abs(got - truth[:total]).max() <= abs(error) + 1e-4
    np.testing.assert_array_equal(got[guessed_to:], truth[guessed_to:total])
    # No step larger than one fade step plus the ramp's own: no click.
    assert np.abs(np.diff(got)).max() <= abs(error) / FADE_SAMPLES * 2 + 3e-3


@pytest.fixture
def batcher():
    made = CodecBatcher(DECODER, slots=4)
    made.start()
    yield made
    made.close()


async def test_first_audio_comes_after_one_frame(batcher):
    latents = random_latents(6)
    stream = batcher.open_stream(fast_start=True, noise=False)
    stream.push(latents[:3])
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(stream), 0.05)
    stream.push(latents[3:4])
    first = await asyncio.wait_for(anext(stream), 5)
    assert len(first) == 2048 - HOLD_BACK_SAMPLES
    stream.close()
    assert batcher.active == 0


@pytest.mark.parametrize("times_real_time", [1.2, 2.0, 5.0])
async def test_length_is_kept_and_the_end_is_exact(times_real_time):
    """Frames come faster than real time, so the guessing ends; on a clock of our own, so that no load matters."""
    now = 0.0
    batcher = CodecBatcher(DECODER, slots=1, clock=lambda: now)
    latents = random_latents(40)
    stream = batcher.open_stream(fast_start=True, noise=False)
    pieces = []

    async def listen():
        async for piece in stream:
            pieces.append(piece)

    listening = asyncio.create_task(listen())
    for at in range(0, len(latents), 4):
        stream.push(latents[at : at + 4])
        batcher.run_ready()
        await asyncio.sleep(0)
        now += 2048 / 24000 / times_real_time
    stream.finish()
    batcher.run_ready()
    await listening
    got, wanted = np.concatenate(pieces), reference_decode(REFERENCE, latents)
    assert got.shape == wanted.shape
    assert np.abs(got[: len(got) // 2] - wanted[: len(wanted) // 2]).max() > 1e-3
    np.testing.assert_allclose(got[len(got) // 2 :], wanted[len(wanted) // 2 :], rtol=0, atol=1e-5)
    assert np.abs(got).max() <= 1.0


async def test_a_listener_with_enough_to_play_gets_exact_samples_only(batcher):
    latents = random_latents(6)
    stream = batcher.open_stream(fast_start=True, noise=False)
    stream.deadline = time.monotonic() + 100
    stream.push(latents)
    stream.finish()
    got = np.concatenate([piece async for piece in stream])
    np.testing.assert_allclose(got, reference_decode(REFERENCE, latents), rtol=0, atol=1e-5)


async def test_one_frame_with_fast_start_is_whole(batcher):
    stream = batcher.open_stream(fast_start=True, noise=False)
    stream.push(random_latents(1))
    first = await asyncio.wait_for(anext(stream), 5)
    stream.finish()
    rest = [piece async for piece in stream]
    assert len(first) + sum(map(len, rest)) == 2048
