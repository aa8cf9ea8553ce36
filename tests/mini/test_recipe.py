"""Training can continue from the shipped files, and its parts do what the recipe says."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import numpy as np
import torch
from safetensors.torch import load_file
from snac import SNAC

from benchmarks.mini_voice import MODEL
from training import codec_train, decoder, source
from training import vocabulary as v
from training.codec import CONFIG, Codec
from training.codes import (
    LETTERS,
    LEVELS,
    PHASES,
    PHONEMES,
    PITCH_BASE,
    REMAINING,
    SECOND,
    pitch_hz,
)
from training.export import export, llama_state
from training.grid import HOP
from training.lm import Size, VoiceModel
from training.restore import restore
from training.speech import pulses

SECOND_ROWS = slice(v.AUDIO + SECOND, v.AUDIO + SECOND + len(LETTERS) ** 2)


def test_a_checkpoint_restored_from_the_shipped_files_exports_the_same_files(
    tmp_path: Path,
) -> None:
    restore(MODEL, tmp_path)
    saved = torch.load(tmp_path / "lm.pt", weights_only=True)
    net = VoiceModel(Size(**saved["size"]))
    net.load_state_dict(saved["average"])
    shipped = load_file(MODEL / "model.safetensors")
    again = llama_state(net)
    assert again.keys() == shipped.keys()
    for name, weight in shipped.items():
        if name == "model.embed_tokens.weight":  # sums of parts, rounded once more
            if "henry" not in saved["voices"]:  # then his rows are as for a start
                again[name][SECOND_ROWS] = weight[SECOND_ROWS]
            torch.testing.assert_close(again[name], weight, atol=0.02, rtol=0.01)
        else:
            assert torch.equal(again[name], weight), name


def test_an_existing_checkpoint_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "lm.pt").write_bytes(b"hours of work")
    restore(MODEL, tmp_path)
    assert (tmp_path / "lm.pt").read_bytes() == b"hours of work"


def codes_of_a_melody(frames: int = 8) -> torch.Tensor:
    """Codes ``[1, frames, 7]`` of one vowel at a steady pitch whose phase runs on."""
    number = 20
    phase = number_phases(number, 2 * frames)
    middle = LEVELS * (PHASES * number + phase) + 15
    codes = torch.zeros(1, frames, 7, dtype=torch.long)
    codes[0, :, 1], codes[0, :, 4] = middle[::2], middle[1::2]
    codes[0, :, [2, 3, 5, 6]] = 2 * REMAINING * PHONEMES.index("ɑ") + torch.tensor([0, 1, 0, 1])
    return codes


def number_phases(number: int, steps: int) -> torch.Tensor:
    """Phases at the starts of ``steps`` middle steps at one pitch number."""
    return torch.arange(steps) * (number + PITCH_BASE) % PHASES


def test_the_decoder_with_channels_last_computes_what_snac_does() -> None:
    torch.manual_seed(0)
    codec = Codec()
    latents = codec.latents(codes_of_a_melody())
    noise = decoder.noises(1, latents.shape[-1], CONFIG["decoder_rates"])
    given = iter([n.transpose(1, 2) for n in noise])
    with torch.no_grad(), mock.patch("torch.randn", side_effect=given):
        wanted = codec.decoder(latents)[:, 0]
    with torch.no_grad():
        *_, last = decoder.features(codec.decoder, latents.transpose(1, 2), noise, 4)
        sound = decoder.waveform(codec.decoder, last)
    torch.testing.assert_close(sound, wanted, atol=1e-5, rtol=1e-5)


def test_the_source_that_is_read_out_has_the_phase_of_the_rendered_pulses() -> None:
    codes = codes_of_a_melody()
    wanted, counts = source.harmonics(codes)
    hz = float(pitch_hz(np.array([20]))[0])
    rendered = pulses(np.full(8 * 2048 // HOP + 1, hz, np.float32))[: 8 * 2048]
    at = np.arange(3.5, len(rendered), 8)
    for number in (1, 3):
        angle = 2 * np.pi * number * hz * np.arange(len(rendered)) / 24000
        part = 2 * (rendered * np.exp(-1j * angle)).mean()
        harmonic = part.real * np.cos(2 * np.pi * number * hz * at / 24000)
        np.testing.assert_allclose(wanted[0, :, number - 1], harmonic, atol=0.02)
    assert counts[0, :, 0].all()
    assert not counts[0, :, -1].any() or hz * source.HARMONICS < source.TOPS[0]


def test_every_stage_of_the_codec_learns_and_a_checkpoint_goes_on_exactly(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plan = codec_train.Plan(source_until=0.2, speech_until=0.6, batch=1, fused=False)
    codes = codes_of_a_melody()
    rng = np.random.default_rng(0)
    sound = torch.from_numpy(rng.standard_normal((1, 8 * 2048)).astype(np.float32)) * 0.1
    trainer = codec_train.Trainer(plan, "cpu")
    for done, shown in ((0.1, {"source"}), (0.3, {"heard", "wave"}), (0.7, {"judged"})):
        before = [p.clone() for p in trainer.net.matrices()]
        found = trainer.train_step(codes, sound, sound, done, rng)
        assert shown <= found.keys()
        assert all(torch.isfinite(value) for value in found.values())
        assert any(
            not torch.equal(a, b) for a, b in zip(before, trainer.net.matrices(), strict=True)
        )
    other = codec_train.Trainer(plan, "cpu")
    torch.save(trainer.state(), tmp_path / "codec.pt")
    other.load(torch.load(tmp_path / "codec.pt", weights_only=True))
    for t in (trainer, other):
        torch.manual_seed(1)
        t.train_step(codes, sound, sound, 0.8, np.random.default_rng(1))
    for a, b in zip(trainer.net.parameters(), other.net.parameters(), strict=True):
        assert torch.equal(a, b)


def test_an_exported_codec_is_what_was_trained(tmp_path: Path) -> None:
    torch.manual_seed(0)
    codec = Codec()
    torch.save({"average": codec.state_dict(), "config": CONFIG}, tmp_path / "codec.pt")
    export(tmp_path, tmp_path / "voice")
    model = SNAC(**CONFIG)
    model.load_state_dict(load_file(tmp_path / "voice" / "snac" / "model.safetensors"))
    codes = codes_of_a_melody()
    levels = [codes[:, :, s].flatten(1) for s in ([0], [1, 4], [2, 3, 5, 6])]
    with torch.no_grad():
        wanted = codec.latents(codes)
        latents = model.quantizer.from_codes(levels)
    torch.testing.assert_close(latents, wanted, atol=1e-5, rtol=1e-4)
    assert not (tmp_path / "voice" / "model.safetensors").exists()
