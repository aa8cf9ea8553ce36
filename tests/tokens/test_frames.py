"""Frames of codes, read from any stream of ids."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orpheus_plugin.tokens.frames import FrameAssembler
from orpheus_plugin.tokens.vocabulary import CODES, SLOTS
from tests.support.ids import audio_id
from tests.tokens.test_vocabulary import ORPHEUS

FINE_SLOTS = (2, 3, 5, 6)


def frames_to_ids(frames: np.ndarray) -> list[int]:
    return [
        audio_id(ORPHEUS, slot, int(code)) for frame in frames for slot, code in enumerate(frame)
    ]


def frames_to_codes(frames: np.ndarray) -> np.ndarray:
    """The layout of Orpheus' decoder (redistribute_codes), written as columns."""
    coarse = np.repeat(frames[:, 0], 4)
    mid = np.repeat(frames[:, [1, 4]], 2, axis=1).ravel()
    return np.stack([coarse, mid, frames[:, [2, 3, 5, 6]].ravel()], axis=1)


def naive(ids: list[int]) -> tuple[list[tuple[int, int, int]], int, int]:
    """Rows of codes, complete frames and foreign ids, found with a list for each frame."""
    rows: list[tuple[int, int, int]] = []
    frame: list[int] = []
    complete = foreign = 0
    for i in ids:
        slot, code = divmod(i - ORPHEUS.audio_base, CODES)
        if slot not in range(SLOTS):
            foreign += 1
            continue
        if slot != len(frame):
            frame = []
            if slot != 0:
                continue
        frame.append(code)
        if slot in FINE_SLOTS:
            rows.append((frame[0], frame[1] if slot < 4 else frame[4], code))
        if slot == SLOTS - 1:
            complete += 1
            frame = []
    return rows, complete, foreign


def cut(ids: list[int], sizes: list[int]) -> list[list[int]]:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(ids[at : at + size])
        at += size
    return [*pieces, ids[at:]]


any_frames = st.lists(
    st.lists(
        st.one_of(st.just(0), st.just(CODES - 1), st.integers(0, CODES - 1)), min_size=7, max_size=7
    ),
    min_size=1,
    max_size=12,
).map(np.array)
any_id = st.one_of(
    st.integers(-10, ORPHEUS.size + 10_000),
    st.integers(ORPHEUS.audio_base, ORPHEUS.audio_base + SLOTS * CODES - 1),
    st.sampled_from(
        [ORPHEUS.audio_base - 1, ORPHEUS.audio_base + SLOTS * CODES, ORPHEUS.end_of_speech]
    ),
)
sizes = st.lists(st.integers(0, 20), max_size=20)


@given(frames=any_frames, sizes=sizes)
def test_well_formed_ids_give_every_code_in_any_chunking(
    frames: np.ndarray, sizes: list[int]
) -> None:
    assembler = FrameAssembler(ORPHEUS)
    parts = [assembler.push(piece) for piece in cut(frames_to_ids(frames), sizes)]
    rows = np.concatenate(parts)
    assert rows.dtype == np.int32
    np.testing.assert_array_equal(rows, frames_to_codes(frames))
    counts = (
        assembler.frames,
        assembler.out_of_order,
        assembler.foreign,
    )
    assert counts == (len(frames), 0, 0)


def test_rows_of_codes_come_after_slots_2_3_5_and_6() -> None:
    assembler = FrameAssembler(ORPHEUS)
    ids = frames_to_ids(np.arange(14).reshape(2, 7))
    assert [len(assembler.push([i])) for i in ids] == [0, 0, 1, 1, 0, 1, 1] * 2


@given(ids=st.lists(any_id, max_size=80), sizes=sizes)
def test_any_ids_are_read_as_frames_and_never_crash(ids: list[int], sizes: list[int]) -> None:
    rows, complete, foreign = naive(ids)
    assembler = FrameAssembler(ORPHEUS)
    got = np.concatenate([assembler.push(piece) for piece in cut(ids, sizes)])
    np.testing.assert_array_equal(got, np.array(rows, dtype=np.int32).reshape(-1, 3))
    assert (assembler.frames, assembler.foreign) == (complete, foreign)


@given(
    frames=any_frames,
    damage=st.lists(
        st.tuples(st.sampled_from(["drop", "repeat", "insert"]), st.integers(0, 83), any_id),
        max_size=6,
    ),
    sizes=sizes,
)
def test_damaged_ids_cost_only_the_frames_they_hit(
    frames: np.ndarray, damage: list[tuple[str, int, int]], sizes: list[int]
) -> None:
    ids = frames_to_ids(frames)
    for how, where, other in damage:
        where %= max(1, len(ids))
        if how == "drop":
            del ids[where : where + 1]
        elif how == "repeat":
            ids[where:where] = ids[where : where + 1]
        else:
            ids.insert(where, other)
    assembler = FrameAssembler(ORPHEUS)
    parts = [assembler.push(piece) for piece in cut(ids, sizes)]
    assert assembler.frames >= len(frames) - len(damage)
    np.testing.assert_array_equal(
        np.concatenate(parts), np.array(naive(ids)[0], np.int32).reshape(-1, 3)
    )


def test_a_dropped_id_ends_its_frame_and_the_next_frame_is_whole() -> None:
    frames = np.arange(21).reshape(3, 7)
    ids = frames_to_ids(frames)
    del ids[7 + 4]
    assembler = FrameAssembler(ORPHEUS)
    rows = assembler.push(ids)
    expected = frames_to_codes(frames)
    np.testing.assert_array_equal(rows, np.delete(expected, [6, 7], axis=0))
    assert (assembler.frames, assembler.out_of_order) == (2, 2)


def test_a_foreign_id_between_two_that_fit_costs_nothing() -> None:
    frames = np.arange(14).reshape(2, 7)
    ids = frames_to_ids(frames)
    ids[3:3] = [17, ORPHEUS.audio_base + SLOTS * CODES]
    assembler = FrameAssembler(ORPHEUS)
    np.testing.assert_array_equal(assembler.push(ids), frames_to_codes(frames))
    assert (assembler.foreign, assembler.out_of_order) == (2, 0)


def test_a_frame_without_its_end_is_not_counted() -> None:
    assembler = FrameAssembler(ORPHEUS)
    assert len(assembler.push(frames_to_ids(np.zeros((2, 7), int))[:-3])) == 6
    assert assembler.frames == 1


def test_ids_out_of_order_are_logged_once_per_utterance(caplog: pytest.LogCaptureFixture) -> None:
    assembler = FrameAssembler(ORPHEUS)
    with caplog.at_level(logging.WARNING):
        assembler.push([1, 2, 3])
        assembler.push([audio_id(ORPHEUS, 5, 5)])
    assert len(caplog.records) == 1
    assert (assembler.foreign, assembler.out_of_order) == (3, 1)
