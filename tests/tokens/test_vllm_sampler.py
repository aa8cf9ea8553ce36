"""The compact sampler's arithmetic, on vLLM's own sampler and apart from its engine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.vllm
pytest.importorskip("vllm", exc_type=ImportError)

from vllm.v1.sample.logits_processor import LogitsProcessors  # noqa: E402
from vllm.v1.sample.metadata import SamplingMetadata  # noqa: E402
from vllm.v1.sample.sampler import Sampler  # noqa: E402

from orpheus_plugin.tokens.vllm.sampler import (  # noqa: E402
    COLUMNS,
    STOP,
    CompactSampler,
    CompactSamplerV2,
    Layout,
    penalise,
)
from orpheus_plugin.tokens.vocabulary import CODES, SLOTS  # noqa: E402

ROOT = Path(__file__).parents[2]
BASE = 330
LAYOUT = Layout(first=320, end=29_056, size=29_010, audio_base=BASE, stop=322)
WIDTH = LAYOUT.end - LAYOUT.first


def random_logits(rows: int, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(seed))


def ids_of(slot: int, *codes: int) -> list[int]:
    return [BASE + CODES * slot + code for code in codes]


def test_a_layout_contains_all_audio_ids_and_the_stop() -> None:
    for change in ({"first": 340}, {"end": 28_900}, {"size": 28_900}, {"stop": 10}):
        fields = {"first": 320, "end": 29_056, "size": 29_010, "audio_base": BASE, "stop": 322}
        with pytest.raises(ValueError, match="audio ids"):
            Layout(**(fields | change))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_columns_are_the_codes_of_the_slot_and_the_stop_between_frames(
    dtype: torch.dtype,
) -> None:
    logits = random_logits(SLOTS).to(dtype)
    whole = LAYOUT.whole(logits).float()
    slots = torch.arange(SLOTS)
    rows = LAYOUT.of_slots(logits, slots)
    assert (rows.shape, rows.dtype) == ((SLOTS, COLUMNS), torch.float32)
    for slot in range(SLOTS):
        start = BASE + CODES * slot
        torch.testing.assert_close(rows[slot, :CODES], whole[slot, start : start + CODES])
        assert rows[slot, STOP] == (whole[slot, LAYOUT.stop] if slot == 0 else -torch.inf)
    for column in (0, 17, CODES - 1):
        ids = LAYOUT.ids(torch.full((SLOTS,), column), slots)
        assert ids.tolist() == [BASE + CODES * slot + column for slot in range(SLOTS)]
    assert LAYOUT.ids(torch.tensor([STOP]), torch.tensor([0])).tolist() == [LAYOUT.stop]


class Batch:
    """What a runner keeps of its requests, and the metadata that its sampler gets."""

    def __init__(self, drawn: list[list[int]], **options: Any) -> None:
        rows = len(drawn)
        self.num_reqs = rows
        self.req_output_token_ids = drawn
        self.frequency_penalties_reqs: set[str] = set()
        self.presence_penalties_reqs: set[str] = set()
        penalty = options.pop("penalty", 1.0)
        temperature = options.pop("temperature", 0.0)
        self.meta = SamplingMetadata(
            **{
                "temperature": torch.full((rows,), temperature) if temperature else None,
                "all_greedy": not temperature,
                "all_random": bool(temperature),
                "top_p": None,
                "top_k": None,
                "generators": {},
                "max_num_logprobs": None,
                "no_penalties": penalty == 1.0,
                "prompt_token_ids": torch.full((rows, 3), 5),
                "frequency_penalties": torch.zeros(rows),
                "presence_penalties": torch.zeros(rows),
                "repetition_penalties": torch.full((rows,), penalty),
                "output_token_ids": drawn,
                "allowed_token_ids_mask": None,
                "bad_words_token_ids": {},
                "logitsprocs": LogitsProcessors(),
            }
            | options
        )

    def compact(self, logits: torch.Tensor) -> list[int]:
        runner = SimpleNamespace(input_batch=self, sampler=Sampler())
        output = CompactSampler(runner, LAYOUT)(logits=logits, sampling_metadata=self.meta)
        assert output.sampled_token_ids.dtype == torch.int32
        ids: list[int] = output.sampled_token_ids[:, 0].tolist()
        return ids

    def masked(self, logits: torch.Tensor) -> list[int]:
        """The same by vLLM's own sampler, over all ids, with the ids of other slots held down."""
        whole = LAYOUT.whole(logits)
        for row, ids in enumerate(self.req_output_token_ids):
            start = BASE + CODES * (len(ids) % SLOTS)
            mask = torch.ones(LAYOUT.size, dtype=torch.bool)
            mask[start : start + CODES] = False
            mask[LAYOUT.stop] = len(ids) % SLOTS != 0
            whole[row, mask] = -torch.inf
        output = Sampler()(logits=whole, sampling_metadata=self.meta)
        found: list[int] = output.sampled_token_ids[:, 0].tolist()
        return found


def frames(count: int, seed: int) -> list[int]:
    codes = np.random.default_rng(seed).integers(0, CODES, count)
    return [BASE + CODES * (n % SLOTS) + int(code) for n, code in enumerate(codes)]


def test_greedy_ids_are_those_of_vllms_sampler_under_the_mask() -> None:
    drawn = [frames(count, count) for count in range(23)]
    batch = Batch(drawn)
    logits = random_logits(len(drawn))
    ids = batch.compact(logits.clone())
    assert ids == batch.masked(logits)
    assert [(i - BASE) // CODES for i in ids] == [len(d) % SLOTS for d in drawn]


def test_the_penalty_is_vllms() -> None:
    """Each request has drawn the codes that would come next, so that only the penalty decides."""
    logits = random_logits(21)
    drawn = []
    for row, count in enumerate(range(28, 49)):
        slot = count % SLOTS
        best = logits[row, BASE - 320 + CODES * slot :][:CODES].topk(3).indices.tolist()
        ids = frames(count, count)
        ids[slot::SLOTS] = ids_of(slot, *(best[n % 3] for n in range(len(ids[slot::SLOTS]))))
        drawn.append(ids)
    batch = Batch(drawn, penalty=1.7)
    ids = batch.compact(logits.clone())
    assert ids == batch.masked(logits)
    assert not any(i in seen for i, seen in zip(ids, drawn, strict=True))
    assert ids != Batch(drawn).compact(logits)


def test_penalised_logits_equal_vllms_up_to_rounding() -> None:
    from vllm.v1.sample.ops.penalties import apply_all_penalties

    drawn = [frames(count, 1) for count in range(60, 74)]
    slots = torch.tensor([len(ids) % SLOTS for ids in drawn])
    logits = random_logits(len(drawn))
    rows = LAYOUT.of_slots(logits, slots)
    runner = SimpleNamespace(input_batch=None, sampler=Sampler())
    seen = CompactSampler(runner, LAYOUT)._seen(drawn, slots.tolist(), torch.device("cpu"))
    penalty = torch.linspace(0.8, 1.5, len(drawn))
    penalise(rows, seen, penalty)
    zeros = torch.zeros(len(drawn))
    theirs = apply_all_penalties(
        LAYOUT.whole(logits), torch.full((len(drawn), 2), 7), zeros, zeros, penalty, drawn
    )
    for row, slot in enumerate(slots.tolist()):
        start = BASE + CODES * slot
        torch.testing.assert_close(rows[row, :CODES], theirs[row, start : start + CODES])


def test_ids_not_known_yet_or_out_of_place_are_not_penalised() -> None:
    drawn = [[BASE, *ids_of(1, 4), -1, 5, 6, 7, 8, *ids_of(3, 9), *ids_of(1, 4)]]
    runner = SimpleNamespace(input_batch=None, sampler=Sampler())
    for slot, codes in ((0, [0]), (1, [4]), (2, [])):
        seen = CompactSampler(runner, LAYOUT)._seen(drawn, [slot], torch.device("cpu"))
        assert seen[0].nonzero()[:, 0].tolist() == codes


@pytest.mark.parametrize("options", [{}, {"top_p": 0.6}, {"top_k": 3}, {"top_p": 0.8, "top_k": 4}])
def test_ids_are_drawn_as_often_as_by_vllms_sampler(options: dict[str, float]) -> None:
    torch.manual_seed(0)
    rows = 3000
    logits = random_logits(1)
    logits[0, BASE - 320 : BASE - 320 + 40] += 9  # a head that can be counted
    logits[0, LAYOUT.stop - 320] = 16
    many = {
        name: torch.full((rows,), value, dtype=torch.int32 if name == "top_k" else torch.float32)
        for name, value in options.items()
    }
    batch = Batch([[] for _ in range(rows)], temperature=0.9, **many)
    counts = []
    for draw in (batch.compact, batch.masked):
        ids = draw(logits.expand(rows, -1).clone())
        counts.append(np.bincount(np.array(ids), minlength=LAYOUT.size) / rows)
    ours, theirs = counts
    assert ours[LAYOUT.stop] > 0.02
    assert np.abs(ours - theirs).max() < 0.04
    assert np.abs(ours - theirs).sum() / 2 < 0.08
    if options:
        assert set(ours.nonzero()[0]) == set(theirs.nonzero()[0])


def test_a_seed_draws_the_same_ids_in_any_batch() -> None:
    logits = random_logits(5)

    def draw(rows: list[int]) -> list[int]:
        generators = {place: torch.Generator().manual_seed(row) for place, row in enumerate(rows)}
        batch = Batch([frames(row, 0) for row in rows], temperature=1.0, generators=generators)
        return batch.compact(logits[rows])

    assert draw([0, 1, 2, 3, 4])[3] == draw([3])[0] == draw([3, 1])[0]


@pytest.mark.parametrize(
    "options",
    [
        {"max_num_logprobs": 1},
        {"bad_words_token_ids": {0: [[BASE]]}},
        {"allowed_token_ids_mask": torch.zeros(1, LAYOUT.size, dtype=torch.bool)},
    ],
)
def test_options_in_ids_go_to_vllms_own_sampler(options: dict[str, Any]) -> None:
    """Which may draw any computed id, here a control mark."""
    logits = random_logits(1)
    logits[0, 3] = 99.0
    assert Batch([[]], **options).compact(logits) == [323]


# ---- the second runner, that of GPUs, in Triton's interpreter


@pytest.fixture(scope="module")
def second() -> dict[str, Any]:
    """What its samplers draw: see tests/support/second_runner.py."""
    pytest.importorskip("triton")
    program = [sys.executable, "-m", "tests.support.second_runner"]
    ended = subprocess.run(program, capture_output=True, text=True, cwd=ROOT, check=False)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("name", ["greedy", "again", "penalty", "top_k", "min_p"])
def test_the_second_runner_draws_what_vllms_own_sampler_draws(
    second: dict[str, Any], name: str
) -> None:
    assert second[name]["compact"] == second[name]["whole"]


def test_the_second_runner_counts_what_was_drawn_in_the_same_slot(second: dict[str, Any]) -> None:
    drawn, again = second["drawn"], second["again"]["compact"]
    assert again[2] == drawn[2][0]
    assert again[3] in (drawn[3][2], drawn[3][9])
    assert second["penalty"]["compact"] == second["greedy"]["compact"]


def test_the_second_runner_draws_with_the_given_chances(second: dict[str, Any]) -> None:
    """4 to 1, each of 100 requests with its seed. Four deviations are 16."""
    ids = second["seeds"]["compact"]
    assert set(ids) == {BASE + 6, BASE + 8}
    assert 64 <= ids.count(BASE + 8) <= 96
    assert set(second["top_p"]["compact"]) == {BASE + 8}


def test_options_in_ids_go_to_the_second_runners_own_sampler(second: dict[str, Any]) -> None:
    assert set(second["bias"]["compact"]) == {323}


def test_slots_are_counted_from_the_end_of_the_prompt() -> None:
    sampler = CompactSamplerV2(SimpleNamespace(sampler=None, device=torch.device("cpu")), LAYOUT)
    prompt = torch.tensor([5, 5, 5, 9], dtype=torch.int32)
    last = torch.tensor([4, 5, 11, 9 + 14])  # where the last id read stands
    assert sampler.slots(last, prompt).tolist() == [0, 1, 0, 1]


def test_drawn_codes_are_read_from_vllms_counts() -> None:
    sampler = CompactSamplerV2(SimpleNamespace(sampler=None, device=torch.device("cpu")), LAYOUT)
    counts = torch.zeros(4, LAYOUT.size, dtype=torch.int32)
    counts[2, ids_of(6, 0, 5, CODES - 1)] = torch.tensor([1, 2, 3], dtype=torch.int32)
    counts[1, ids_of(0, 7)] = 1
    seen = sampler.seen(counts, torch.tensor([2, 1, 2]), torch.tensor([6, 0, 0]))
    assert [row.nonzero()[:, 0].tolist() for row in seen] == [[0, 5, CODES - 1], [7], []]
