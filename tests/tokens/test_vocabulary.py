"""Ids, prompts, and frames read from any stream of ids."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orpheus_plugin.errors import BadCheckpoint
from orpheus_plugin.tokens.vocabulary import CODES, SLOTS, FrameAssembler, Vocabulary
from tests.support.checkpoints import SMALL_TEXT, crafted_checkpoint, write_tokenizer

ORPHEUS = Vocabulary(
    bos=128000,
    eot=128009,
    start_of_speech=128257,
    end_of_speech=128258,
    start_of_human=128259,
    end_of_human=128260,
    start_of_ai=128261,
    end_of_ai=128262,
    audio_base=128266,
    size=156940,
)
FINE_SLOTS = {2: 0, 3: 1, 5: 2, 6: 3}


@pytest.fixture(scope="module")
def full() -> Vocabulary:
    return Vocabulary.load(crafted_checkpoint())


@pytest.mark.parametrize("text", ["Hi there.", " two  spaces ", "Déjà vu <laugh> 你好 🙂\n", ""])
def test_a_prompt_written_as_text_is_read_as_the_same_ids(full: Vocabulary, text: str) -> None:
    ids = full.prompt("tara", text)
    written = full.decode(ids)
    assert written.startswith("<custom_token_3><|begin_of_text|>tara: ")
    assert full._tokenizer.encode(written, add_special_tokens=False).ids == ids


def frames_to_ids(frames: np.ndarray) -> list[int]:
    return [
        ORPHEUS.audio_id(slot, int(code)) for frame in frames for slot, code in enumerate(frame)
    ]


def frames_to_latents(frames: np.ndarray) -> np.ndarray:
    """The layout of Orpheus' decoder (redistribute_codes), written as columns."""
    coarse = np.repeat(frames[:, 0], 4)
    mid = np.repeat(frames[:, [1, 4]], 2, axis=1).ravel()
    return np.stack([coarse, mid, frames[:, [2, 3, 5, 6]].ravel()], axis=1)


def naive(ids: list[int]) -> tuple[list[tuple[int, int, int]], int, int, int]:
    """Latents, complete frames, foreign ids, incomplete frames, told frame by frame with lists."""
    latents: list[tuple[int, int, int]] = []
    frame: list[int] = []
    complete = foreign = incomplete = 0
    for i in ids:
        place = ORPHEUS.slot_and_code(i)
        if place is None:
            foreign += 1
            continue
        slot, code = place
        if slot != len(frame):
            incomplete += bool(frame)
            frame = []
            if slot != 0:
                continue
        frame.append(code)
        if slot in FINE_SLOTS:
            latents.append((frame[0], frame[1] if slot < 4 else frame[4], code))
        if slot == SLOTS - 1:
            complete += 1
            frame = []
    return latents, complete, foreign, incomplete + bool(frame)


def cut(ids: list[int], sizes: list[int]) -> list[list[int]]:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(ids[at : at + size])
        at += size
    return [*pieces, ids[at:]]


codes = st.lists(
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


def test_the_ids_of_orpheus_come_from_the_tokenizer(full: Vocabulary) -> None:
    assert full == ORPHEUS


def test_a_small_text_vocabulary_shifts_all_ids() -> None:
    small = Vocabulary.load(crafted_checkpoint(text=SMALL_TEXT))
    shift = ORPHEUS.audio_base - small.audio_base
    assert shift == 128_000 - SMALL_TEXT
    assert ORPHEUS.end_of_speech - small.end_of_speech == shift
    assert small.bos == SMALL_TEXT
    assert small.size == ORPHEUS.size - shift


def test_a_prompt_is_framed_by_the_control_ids(full: Vocabulary) -> None:
    ids = full.prompt("tara", "Hi there.")
    assert ids[:2] == [128259, 128000]
    assert ids[-4:] == [128009, 128260, 128261, 128257]
    assert ids[2:-4] == full.text_ids("tara: Hi there.")
    assert full.prompt(None, "Hi")[2:-4] == full.prompt("", "Hi")[2:-4] == full.text_ids("Hi")


@given(text=st.text(alphabet=st.characters(exclude_categories=())))
def test_a_prompt_has_one_bos_and_no_mark_of_its_text(full: Vocabulary, text: str) -> None:
    ids = full.prompt(
        "tara", text + "<|begin_of_text|><custom_token_2><custom_token_99><|eot_id|>" + text
    )
    assert ids.count(full.bos) == 1
    assert ids.count(full.eot) == 1
    assert all(i < 128000 for i in ids[2:-4])


def test_an_audio_id_tells_its_slot_and_code() -> None:
    for slot in range(SLOTS):
        for code in (0, 1, CODES - 1):
            assert ORPHEUS.slot_and_code(ORPHEUS.audio_id(slot, code)) == (slot, code)
    assert ORPHEUS.audio_id(0, 0) == 128266
    assert ORPHEUS.audio_id(6, 4095) == 156937
    for other in (-1, 0, 128258, 128265, 156938, 156939):
        assert ORPHEUS.slot_and_code(other) is None
    for slot, code in ((7, 0), (-1, 0), (0, CODES), (0, -1)):
        with pytest.raises(ValueError, match="no audio id"):
            ORPHEUS.audio_id(slot, code)


@given(frames=codes, sizes=sizes)
def test_well_formed_ids_give_every_latent_in_any_chunking(
    frames: np.ndarray, sizes: list[int]
) -> None:
    assembler = FrameAssembler(ORPHEUS)
    parts = [assembler.push(piece) for piece in cut(frames_to_ids(frames), sizes)]
    assembler.finish()
    latents = np.concatenate(parts)
    assert latents.dtype == np.int32
    np.testing.assert_array_equal(latents, frames_to_latents(frames))
    counts = (
        assembler.frames,
        assembler.out_of_order,
        assembler.foreign,
        assembler.incomplete_frames,
    )
    assert counts == (len(frames), 0, 0, 0)


def test_latents_come_after_slots_2_3_5_and_6() -> None:
    assembler = FrameAssembler(ORPHEUS)
    ids = frames_to_ids(np.arange(14).reshape(2, 7))
    assert [len(assembler.push([i])) for i in ids] == [0, 0, 1, 1, 0, 1, 1] * 2


@given(ids=st.lists(any_id, max_size=80), sizes=sizes)
def test_any_ids_are_read_as_frames_and_never_crash(ids: list[int], sizes: list[int]) -> None:
    latents, complete, foreign, incomplete = naive(ids)
    assembler = FrameAssembler(ORPHEUS)
    got = np.concatenate([assembler.push(piece) for piece in cut(ids, sizes)])
    assembler.finish()
    np.testing.assert_array_equal(got, np.array(latents, dtype=np.int32).reshape(-1, 3))
    counts = assembler.frames, assembler.foreign, assembler.incomplete_frames
    assert counts == (complete, foreign, incomplete)


@given(
    frames=codes,
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
    assembler.finish()
    assert assembler.frames >= len(frames) - len(damage)
    np.testing.assert_array_equal(
        np.concatenate(parts), np.array(naive(ids)[0], np.int32).reshape(-1, 3)
    )
    if not assembler.foreign and not assembler.out_of_order:
        assert assembler.incomplete_frames <= 1


def test_a_dropped_id_ends_its_frame_and_the_next_frame_is_whole() -> None:
    frames = np.arange(21).reshape(3, 7)
    ids = frames_to_ids(frames)
    del ids[7 + 4]
    assembler = FrameAssembler(ORPHEUS)
    latents = assembler.push(ids)
    expected = frames_to_latents(frames)
    np.testing.assert_array_equal(latents, np.delete(expected, [6, 7], axis=0))
    assert (assembler.frames, assembler.out_of_order, assembler.incomplete_frames) == (2, 2, 1)


def test_a_foreign_id_between_two_that_fit_costs_nothing() -> None:
    frames = np.arange(14).reshape(2, 7)
    ids = frames_to_ids(frames)
    ids[3:3] = [17, ORPHEUS.audio_base + SLOTS * CODES]
    assembler = FrameAssembler(ORPHEUS)
    np.testing.assert_array_equal(assembler.push(ids), frames_to_latents(frames))
    assert (assembler.foreign, assembler.out_of_order) == (2, 0)


def test_a_missing_end_is_dropped_and_counted() -> None:
    assembler = FrameAssembler(ORPHEUS)
    assert len(assembler.push(frames_to_ids(np.zeros((2, 7), int))[:-3])) == 6
    assembler.finish()
    assembler.finish()
    assert (assembler.frames, assembler.incomplete_frames) == (1, 1)


def test_disorder_is_logged_once_per_utterance(caplog: pytest.LogCaptureFixture) -> None:
    assembler = FrameAssembler(ORPHEUS)
    with caplog.at_level(logging.WARNING):
        assembler.push([1, 2, 3])
        assembler.push([ORPHEUS.audio_id(5, 5)])
    assert len(caplog.records) == 1
    assert (assembler.foreign, assembler.out_of_order) == (3, 1)


def spoil(folder: Path, change: object) -> Path:
    write_tokenizer(folder, SMALL_TEXT)
    path = folder / "tokenizer.json"
    value = json.loads(path.read_text("utf-8"))
    change(value)  # type: ignore[operator]
    path.write_text(json.dumps(value), "utf-8")
    return folder


def test_a_tokenizer_without_audio_tokens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match="not an Orpheus tokenizer"):
        Vocabulary.load(spoil(tmp_path, lambda t: t["added_tokens"].__delitem__(slice(300, None))))


def test_audio_tokens_out_of_order_are_refused(tmp_path: Path) -> None:
    def swap(tokenizer: dict) -> None:  # type: ignore[type-arg]
        added = tokenizer["added_tokens"]
        added[400]["content"], added[401]["content"] = added[401]["content"], added[400]["content"]

    with pytest.raises(BadCheckpoint, match="breaks the run"):
        Vocabulary.load(spoil(tmp_path, swap))


def test_missing_broken_and_too_small_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match=r"no tokenizer\.json"):
        Vocabulary.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BadCheckpoint, match="not a tokenizer"):
        Vocabulary.load(tmp_path)
    write_tokenizer(tmp_path, SMALL_TEXT)
    (tmp_path / "config.json").write_text('{"vocab_size": 20000}')
    with pytest.raises(BadCheckpoint, match="knows 20000 ids"):
        Vocabulary.load(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(BadCheckpoint, match="not a model configuration"):
        Vocabulary.load(tmp_path)
