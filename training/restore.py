"""Checkpoints from exported files, so that training can start from the shipped voice. The state of
the optimisers is not in them.

The language model's exported table holds sums of parts (see :class:`training.lm.Table`); here they
are taken apart again. Other parts could have the same sums.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.utils import parametrize

from training import vocabulary as v
from training.codec import Codec
from training.codes import LETTERS, LEVELS, PHASES, PHONEMES, PITCHES, REMAINING, ROWS, SECOND
from training.export import LAYER_NAMES
from training.lm import Size, Table, VoiceModel


@torch.no_grad()
def take_apart(table: Table, rows: Tensor) -> None:
    """Set the parts of ``table`` so that its sums are ``rows [28746, width]``.

    What says that the second voice speaks stays as it is if the rows are of one voice alone.
    """
    width = rows.shape[1]
    table.text.copy_(rows[: v.CUSTOM])
    table.control.copy_(rows[v.CUSTOM : v.AUDIO])
    audio = rows[v.AUDIO :].view(7, ROWS, width)
    table.slot.zero_()
    n = len(LETTERS)
    pairs = audio[0, table.pairs].view(n, n, width)
    table.letter.zero_()
    table.next.zero_()
    table.letter[:n] = pairs.mean(1)
    table.next[:n] = pairs.mean(0) - pairs.mean((0, 1))
    table.pair.zero_()
    left = pairs - table.letter[:n, None] - table.next[None, :n]
    table.pair[table.pairs] = left.reshape(n * n, width)
    second = audio[0, SECOND : SECOND + n * n]
    if not torch.equal(second[0], audio[0, -1]):
        table.speaker.copy_((second - audio[0, table.pairs]).mean(0, True))

    size = PITCHES * PHASES * LEVELS
    middle = audio[[1, 4], :size].view(2, PITCHES, PHASES, LEVELS, width)
    whole = middle.mean((0, 1, 2, 3))
    table.slot[[1, 4]] = middle.mean((1, 2, 3))
    table.pitch.copy_(middle.mean((0, 2, 3)) - whole)
    table.phase.copy_(middle.mean((0, 1, 3)) - whole)
    table.level.copy_(middle.mean((0, 1, 2)) - whole)

    size = len(PHONEMES) * REMAINING
    slots = ((2, 0), (3, 1), (5, 0), (6, 1))  # and which half of a middle step they are
    halves = [audio[s, half : 2 * size : 2] for s, half in slots]
    fine = torch.stack(halves).view(4, len(PHONEMES), REMAINING, width)
    whole = fine.mean((0, 1, 2))
    table.slot[[2, 3, 5, 6]] = fine.mean((1, 2))
    table.phoneme.zero_()
    table.phoneme[: len(PHONEMES)] = fine.mean((0, 2)) - whole
    table.remaining.copy_(fine.mean((0, 1)) - whole)
    table.unused.copy_(audio[0, -1:])


@torch.no_grad()
def restore_codec(folder: Path) -> Codec:
    """The codec of a folder (``config.json``, ``model.safetensors``)."""
    from snac import SNAC

    config = json.loads((folder / "config.json").read_text())
    model: Any = SNAC(**config)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    for module in model.modules():
        if parametrize.is_parametrized(module):
            parametrize.remove_parametrizations(module, "weight")
    codec = Codec(config)
    codec.decoder.load_state_dict(model.decoder.state_dict())
    _, middle, fine = model.quantizer.quantizers
    for rows, out, quantizer in (
        (codec.middle, codec.middle_out, middle),
        (codec.fine, codec.fine_out, fine),
    ):
        rows.set(quantizer.codebook.weight[: rows.count()])
        out.load_state_dict(quantizer.out_proj.state_dict())
    return codec


@torch.no_grad()
def restore_lm(folder: Path) -> VoiceModel:
    """The language model of a folder (``model.safetensors``)."""
    saved = {k: t.float() for k, t in load_file(folder / "model.safetensors").items()}
    net = VoiceModel(Size())
    take_apart(net.table, saved["model.embed_tokens.weight"])
    net.norm.copy_(saved["model.norm.weight"])
    for i, block in enumerate(net.blocks):
        at = f"model.layers.{i}."
        for ours, theirs in LAYER_NAMES.items():
            getattr(block, ours).weight.copy_(saved[f"{at}{theirs}.weight"])
        block.norm1.copy_(saved[f"{at}input_layernorm.weight"])  # type: ignore[operator]
        block.norm2.copy_(saved[f"{at}post_attention_layernorm.weight"])  # type: ignore[operator]
    return net


def restore(folder: Path, work: Path, what: str = "lm") -> None:
    """Write ``work/{what}.pt`` from the voice in ``folder``; an existing checkpoint is not changed.

    Args:
        folder: the voice, as ``export`` writes it.
        work: folder of intermediate files.
        what: ``lm`` or ``codec``.
    """
    path = work / f"{what}.pt"
    if path.exists():
        print(f"{path} is there: nothing to do")
        return
    work.mkdir(parents=True, exist_ok=True)
    state: dict[str, Any]
    if what == "codec":
        codec = restore_codec(folder / "snac")
        state = {"average": codec.state_dict(), "config": codec.config}
    else:
        net = restore_lm(folder)
        weights = net.state_dict()
        voices = json.loads((folder / "config.json").read_text())["orpheus"]["voices"]
        size = net.size.as_dict()
        state = {"net": weights, "average": weights, "size": size, "voices": voices}
    torch.save(state, path)
    print(f"{path} from {folder}")
