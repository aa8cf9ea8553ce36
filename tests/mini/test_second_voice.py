"""Two voices in one language model: rows of its own for the second."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.mini.test_unmarked import good_day
from training import vocabulary as v
from training.codes import LETTERS, ROWS, VOICES, coarse, frames
from training.lm import Table
from training.lm_train import collate
from training.restore import take_apart


def test_the_second_voice_reads_the_same_letters_in_rows_that_the_first_does_not_use() -> None:
    letter, following = np.divmod(np.arange(len(LETTERS) ** 2), len(LETTERS))
    rows = {voice: coarse(voice, letter, following) for voice in VOICES}
    assert len(set(rows["heart"].tolist() + rows["henry"].tolist())) == 2 * len(letter)
    assert max(rows["henry"]) < ROWS
    first = frames(good_day("."))
    second = frames(replace(good_day("."), voice="henry"))
    np.testing.assert_array_equal(first.codes[:, 1:], second.codes[:, 1:])
    assert not set(first.codes[:, 0]) & set(second.codes[:, 0])


def test_the_loss_of_both_voices_is_that_of_the_exported_rows() -> None:
    torch.manual_seed(0)
    table = Table(16)
    batch = collate([good_day("."), replace(good_day("."), voice="henry")], 1.0)
    rows = table.full()
    torch.testing.assert_close(table.embed(batch.ids), rows[batch.ids])
    wanted = batch.ids[batch.speech]
    h = torch.randn(len(wanted), 16) * 3
    exact = torch.nn.functional.cross_entropy(h @ rows.t(), wanted, reduction="none")
    torch.testing.assert_close(table.loss(h, wanted), exact, atol=1e-4, rtol=1e-4)


def test_the_prompt_names_the_voice_and_the_guides_follow_the_text() -> None:
    batch = collate([good_day("."), replace(good_day("."), voice="henry")], 1.0)
    assert batch.ids[1].tolist()[: v.text_start("henry")] == [
        v.START_OF_HUMAN,
        v.BOS,
        *v.letters("henry: "),
    ]
    assert torch.equal(batch.look[0], batch.look[1])


@pytest.mark.parametrize("voices", [1, 2])
def test_exported_rows_are_taken_apart_into_the_same_sums(voices: int) -> None:
    torch.manual_seed(0)
    table, again = Table(8), Table(8)
    speaker = again.speaker.clone()
    rows = table.full().detach()
    second = v.AUDIO + coarse("henry", np.array([0]), np.array([0]))[0]
    pairs = len(LETTERS) ** 2
    if voices == 1:  # as exported before there was a second voice
        rows[second : second + pairs] = rows[v.AUDIO + ROWS - 1]
    take_apart(again, rows)
    found = again.full().detach()
    if voices == 1:
        assert torch.equal(again.speaker, speaker)
        found[second : second + pairs] = rows[second : second + pairs]
    torch.testing.assert_close(found, rows, atol=1e-5, rtol=1e-4)
