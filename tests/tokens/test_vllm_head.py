"""The restricted head's arithmetic, apart from vLLM's engine."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

pytestmark = pytest.mark.vllm
pytest.importorskip("vllm", exc_type=ImportError)

from orpheus_plugin.tokens.vllm.model import head_rows, restricted_logits  # noqa: E402

VOCABULARY = 1000
PADDED = 1024


@pytest.mark.parametrize("rows", [(0, 64), (320, 704), (896, 1024), (640, 960)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_equals_the_whole_head_inside_and_nothing_outside(
    rows: tuple[int, int], dtype: torch.dtype
) -> None:
    noise = torch.Generator().manual_seed(0)
    hidden = torch.randn(5, 32, generator=noise).to(dtype)
    weight = torch.randn(PADDED, 32, generator=noise).to(dtype)
    whole = F.linear(hidden, weight)[:, :VOCABULARY]
    logits = restricted_logits(hidden, weight, rows, VOCABULARY)
    assert (logits.shape, logits.dtype) == (whole.shape, dtype)
    inside = slice(rows[0], min(rows[1], VOCABULARY))
    torch.testing.assert_close(logits[:, inside], whole[:, inside])
    outside = torch.ones(VOCABULARY, dtype=torch.bool)
    outside[inside] = False
    assert torch.isneginf(logits[:, outside]).all()


def test_rows_are_widened_to_tiles() -> None:
    assert head_rows([128257, 156938], 156940) == (128256, 156992)
    assert head_rows((0, 64), 64) == (0, 64)


@pytest.mark.parametrize("asked", [None, [], [1], [5, 5], [-1, 4], [0, 1001], "ab", [1, 2, 3]])
def test_invalid_rows_are_refused(asked: object) -> None:
    assert head_rows(asked, VOCABULARY) is None
