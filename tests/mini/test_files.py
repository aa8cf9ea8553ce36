"""The bundled voice's files are what the ordinary libraries expect of an Orpheus-shaped model."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.mini_voice import MODEL, ROWS, SLOTS, Voice

SENTENCES = ("Hi!", "Your order is ready, Anna.", "he opened the old door.")


@pytest.fixture(scope="module")
def voice() -> Voice:
    return Voice()


def test_transformers_and_snac_load_the_files(voice: Voice) -> None:
    config: Any = voice.lm.config
    assert config.tie_word_embeddings
    assert voice.lm.lm_head.weight.shape == (config.vocab_size, config.hidden_size)
    assert voice.codec.hop_length == 512
    assert voice.codec.vq_strides == [4, 2, 1]
    assert voice.codec.codebook_size == ROWS


def test_custom_tokens_have_one_offset(voice: Voice) -> None:
    first = voice.tokens.token_to_id("<custom_token_0>")
    last = 9 + SLOTS * ROWS
    for n in (1, 2, 7, 10, 10 + ROWS, last):
        assert voice.tokens.token_to_id(f"<custom_token_{n}>") == first + n
    assert voice.tokens.token_to_id(f"<custom_token_{last + 1}>") is None
    assert voice.lm.config.vocab_size >= first + last + 1
    assert voice.defaults["eos_token_id"] == first + 2


def test_text_is_letters_whatever_comes_in(voice: Voice) -> None:
    encode = voice.tokens.encode
    assert encode("heart: It's").ids == encode("HEART: it’s").ids
    assert encode("heart: café").ids == encode("heart: cafe").ids
    assert encode("heart: a 漢 b").ids == encode("heart: a b").ids or len(encode("漢").ids) == 1
    assert encode("hi").tokens == ["<|begin_of_text|>", "h", "i"]


def test_the_config_describes_the_model() -> None:
    config = json.loads((MODEL / "config.json").read_text())
    assert config["orpheus"]["voices"]
    assert config["orpheus"]["languages"] == ["en"]
    assert config["orpheus"]["spell_numbers"] is True
    assert (MODEL / "README.md").is_file()


def test_files_are_small() -> None:
    size = sum(p.stat().st_size for p in Path(MODEL).rglob("*") if p.is_file())
    assert size <= 40 * 2**20


@pytest.mark.parametrize("text", SENTENCES)
def test_plain_sampling_keeps_slot_order_and_stops(voice: Voice, text: str) -> None:
    [(ids, stopped)] = voice.generate([text])
    frames, out_of_order = voice.frames(ids)
    sound = voice.sound(frames)
    assert stopped
    assert out_of_order == 0
    assert len(ids) % SLOTS == 0
    assert len(sound) == len(ids) // SLOTS * 2048
    assert 0.3 < len(sound) / 24000 < 6


def test_the_codec_decodes_every_row(voice: Voice) -> None:
    codes = torch.arange(ROWS).view(1, -1)
    with torch.no_grad():
        sound = voice.codec.decode([codes[:, ::4], codes[:, ::2], codes])
    assert torch.isfinite(sound).all()


def test_both_models_are_faster_than_real_time_on_one_thread(voice: Voice) -> None:
    begun = time.process_time()
    [(ids, _)] = voice.generate(["Your order is ready, Anna."])
    sound = voice.sound(voice.frames(ids)[0])
    spent = time.process_time() - begun
    print(f"\nreference implementations: {len(sound) / 24000 / spent:.1f} x real time (CPU time)")
    assert sound.size
