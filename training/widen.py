"""A wider decoder from two narrow ones, laid side by side.

Every matrix of the wide one has theirs on its diagonal and zeros elsewhere. So it sounds like the
first, to the sample, and it has the features of the second for the training that follows: a decoder
that keeps the codes' phase need not learn the phonemes again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.codec import Codec
from training.restore import restore_codec

WIDTHS = ("encoder_dim", "decoder_dim", "codebook_dim")
"""What adds up in the shape of the wider codec."""


def beside(a: Tensor, b: Tensor) -> Tensor:
    """Weights of two layers as those of one whose channels are both layers'."""
    if a.dim() == 1 or a.shape[1] == b.shape[1] == 1:  # a bias; a depthwise convolution
        return torch.cat([a, b])
    if a.shape[0] == b.shape[0] == 1:  # a factor a channel; the last layer
        return torch.cat([a, b], 1)
    out = a.new_zeros(a.shape[0] + b.shape[0], a.shape[1] + b.shape[1], *a.shape[2:])
    out[: a.shape[0], : a.shape[1]] = a
    out[a.shape[0] :, a.shape[1] :] = b
    return out


@torch.no_grad()
def join(sounds: Codec, other: Codec) -> Codec:
    """A codec that sounds like the first and has the features of the other beside its own.

    Raises:
        ValueError: the two differ in more than their widths.
    """
    shapes = [{k: v for k, v in c.config.items() if k not in WIDTHS} for c in (sounds, other)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"codecs of two kinds cannot lie side by side: {shapes[0]}, {shapes[1]}")
    out = Codec({**shapes[0], **{k: sounds.config[k] + other.config[k] for k in WIDTHS}})
    first, second = sounds.decoder.state_dict(), other.decoder.state_dict()
    joined = {name: beside(weight, second[name]) for name, weight in first.items()}
    last = f"model.{max(int(name.split('.')[1]) for name in joined)}"
    joined[f"{last}.weight"][:, first[f"{last}.weight"].shape[1] :] = 0
    joined[f"{last}.bias"] = first[f"{last}.bias"]
    out.decoder.load_state_dict(joined)
    for name in ("middle", "fine"):
        rows, mine, theirs = (getattr(codec, name) for codec in (out, sounds, other))
        every = torch.arange(rows.count())
        rows.set(torch.cat([mine(every), theirs(every)], 1))
        layer: Any
        layer, mine, theirs = (getattr(codec, f"{name}_out") for codec in (out, sounds, other))
        layer.weight.copy_(beside(mine.weight, theirs.weight))
        layer.bias.copy_(beside(mine.bias, theirs.bias))
    return out


def widen(work: Path, sounds: Path, other: Path) -> None:
    """Write ``codec.pt``, to be trained further: a folder's codec with that of another beside
    it."""
    path = work / "codec.pt"
    if path.exists():
        print(f"{path} is there: nothing to do")
        return
    joined = join(restore_codec(sounds), restore_codec(other))
    work.mkdir(parents=True, exist_ok=True)
    torch.save({"average": joined.state_dict(), "config": joined.config}, path)
    print(f"{path}: a decoder {joined.config['decoder_dim']} wide that sounds as {sounds}")
