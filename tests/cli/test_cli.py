"""`orpheus-tts` as a person uses it: files that play, one-line errors, exit codes."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import threading
import wave
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import safe_open

from orpheus_plugin.cli.doctor import fits, gpu_choices, gpu_needs
from orpheus_plugin.cli.main import main
from orpheus_plugin.cli.playback import WavFile
from orpheus_plugin.engine.config import EngineConfig
from orpheus_plugin.engine.factory import TORCH_IS_SLOW, generator_name
from orpheus_plugin.models.devices import vllm_installed
from orpheus_plugin.models.files import HOW_TO_GET_ORPHEUS, ModelFiles, ModelSpec
from orpheus_plugin.tokens.vllm.options import VllmOptions
from orpheus_plugin.version import __version__
from tests.support.checkpoints import SMALL_TEXT, crafted_checkpoint, random_checkpoint
from tests.support.codecs import random_codec
from tests.support.mps_control import on_path, write_control


@pytest.fixture
def model(crafted_files: ModelFiles) -> list[str]:
    return [
        "--model",
        str(crafted_files.lm),
        "--codec",
        str(crafted_files.codec),
        "--device",
        "cpu",
    ]


def test_say_writes_a_wav_file_and_reports(
    model: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "hello.wav"
    assert main(["say", "Hello there, my friend.", "-o", str(out), "--seed", "1", *model]) == 0
    with wave.open(str(out)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (24_000, 1, 2)
        seconds = file.getnframes() / 24_000
    assert seconds > 0.05
    report = capsys.readouterr().err
    assert f"{seconds:.1f} s of speech" in report
    assert "first sound after" in report
    assert "x real time" in report


def test_say_reads_standard_input_and_prints_words(
    model: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello there.\nHow are you?\n"))
    out = tmp_path / "two.wav"
    assert main(["say", "-", "--words", "-o", str(out), *model]) == 0
    lines = capsys.readouterr().out.split("\n")
    assert [line.split()[-1] for line in lines if line] == ["Hello", "there.", "How", "are", "you?"]


def test_a_line_is_spoken_before_the_next_one_comes(
    model: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = threading.Event()
    write = WavFile.write

    def hear(self: WavFile, pcm: bytes) -> None:
        write(self, pcm)
        heard.set()

    class Typed(io.StringIO):
        """One line; its end comes when the line was heard."""

        def readline(self, size: int = -1, /) -> str:  # type: ignore[override]
            line = super().readline(size)
            if not line:
                assert heard.wait(30), "nothing was spoken while standard input was open"
            return line

    monkeypatch.setattr(WavFile, "write", hear)
    monkeypatch.setattr("sys.stdin", Typed("Hello there, my friend.\n"))
    assert main(["say", "-", "-o", str(tmp_path / "typed.wav"), *model]) == 0


def test_text_with_nothing_to_speak_is_reported(
    model: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "none.wav"
    assert main(["say", "😀", "-o", str(out), *model]) == 0
    assert "nothing to speak" in capsys.readouterr().err
    with wave.open(str(out)) as file:
        assert file.getnframes() == 0


def test_a_failure_leaves_the_output_file_as_it_was(tmp_path: Path) -> None:
    """The failure happens when the model is loaded, which is after the file was checked."""
    broken = random_checkpoint(hidden=32, layers=1, heads=2, kv_heads=1, head_dim=16)
    lm = tmp_path / "lm"
    shutil.copytree(broken, lm)
    weights = (lm / "model.safetensors").read_bytes()
    (lm / "model.safetensors").write_bytes(weights[:1000])
    old, fresh = tmp_path / "old.wav", tmp_path / "fresh.wav"
    old.write_bytes(b"precious")
    for out in (old, fresh):
        options = ["--model", str(lm), "--codec", str(random_codec()), "--device", "cpu"]
        assert main(["say", "Hi.", "-o", str(out), *options]) == 1
    assert old.read_bytes() == b"precious"
    assert not fresh.exists()


@pytest.mark.parametrize("arguments", [["say"], ["sya", "Hi."], ["say", "Hi.", "--seed", "x"]])
def test_a_usage_error_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert error.startswith("orpheus-tts")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["say", "x" * 6145], 1, "6144 characters"),
        (["say", "Hi.", "--temperature", "-3"], 2, "temperature"),
        (["say", "Hi.", "--device", "quantum"], 2, "device"),
        (["say", "Hi.", "--seed", "-5"], 2, "seed"),
    ],
)
def test_bad_input_is_one_line_and_no_traceback(
    model: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    options = [*model[:-2], *([] if "--device" in arguments else model[-2:])]
    assert main([*arguments, "-o", str(tmp_path / "out.wav"), *options]) == code
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert error.startswith("orpheus-tts: ")


@pytest.mark.parametrize("part", ["--model", "--codec"])
@pytest.mark.parametrize("fault", ["cut off", "of another shape"])
def test_a_broken_checkpoint_or_codec_is_one_line_that_names_it(
    crafted_files: ModelFiles,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    part: str,
    fault: str,
) -> None:
    lm, codec = crafted_files.lm, crafted_files.codec
    broken = tmp_path / "broken"
    shutil.copytree(lm if part == "--model" else codec, broken)
    if fault == "cut off":
        weights = broken / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:5000])
    else:
        config = json.loads((broken / "config.json").read_text())
        config |= {"hidden_size": 128} if part == "--model" else {"decoder_dim": 32}
        (broken / "config.json").write_text(json.dumps(config))
    options = {"--model": str(lm), "--codec": str(codec), "--device": "cpu", part: str(broken)}
    arguments = [word for option in options.items() for word in option]
    assert main(["say", "Hi.", "-o", str(tmp_path / "out.wav"), *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"orpheus-tts: {broken}") or f" {broken}" in error
    assert len(error.strip().splitlines()) == 1


def test_a_closed_standard_input_is_reported(
    model: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    assert main(["say", "-", "-o", "/dev/null", *model]) == 2
    assert "standard input is closed" in capsys.readouterr().err


def test_the_same_seed_writes_the_same_file(model: list[str], tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("one.wav", "two.wav", "other.wav")]
    for file, seed in zip(files, ("7", "7", "8"), strict=True):
        assert (
            main(["say", "Hello there, my friend.", "-o", str(file), "--seed", seed, *model]) == 0
        )
    one, two, other = (file.read_bytes() for file in files)
    assert one == two != other


def test_an_unknown_voice_names_the_voices_and_leaves_the_file_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.wav"
    assert main(["say", "Hi.", "--voice", "nobody", "-o", str(out), "--model", "mini"]) == 2
    assert (
        capsys.readouterr().err
        == "orpheus-tts: mini has no voice 'nobody'; its voices are heart, henry\n"
    )
    assert not out.exists()


def test_an_unknown_model_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["say", "Hi.", "-o", "/dev/null", "--model", "nosuchmodel"]) == 1
    assert "orpheus-3b" in capsys.readouterr().err


def test_a_model_that_is_not_downloaded_names_the_command_to_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert main(["say", "Hi.", "-o", "/dev/null", "--model", "orpheus-3b-fr"]) == 1
    assert "orpheus-tts download orpheus-3b-fr" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_reported_before_the_model_is_loaded(
    model: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["say", "Hi.", "-o", "/nosuchdir/out.wav", *model]) == 2
    assert "/nosuchdir/out.wav" in capsys.readouterr().err


def test_voices_lists_models_with_licences(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["voices"]) == 0
    listing = capsys.readouterr().out
    for name in ("orpheus-3b ", "tara", "license", "<laugh>", "orpheus-3b-de"):
        assert name in listing


def test_doctor_speaks_a_sentence(model: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", *model]) == 0
    report = capsys.readouterr().out
    assert "speaks" in report
    assert "GPU" in report
    assert "compiled loops on the CPU" in report


def test_doctor_adds_up_the_gpu_memory_that_is_needed(tmp_path: Path) -> None:
    checkpoint = crafted_checkpoint(text=SMALL_TEXT)
    files = ModelFiles(ModelSpec("crafted", ("tara",)), checkpoint, tmp_path)
    with safe_open(checkpoint / "model.safetensors", "pt") as weights:
        values = {name: weights.get_tensor(name).numel() for name in weights.keys()}  # noqa: SIM118
    options = VllmOptions(kv_cache_bytes=3 << 30)
    config = EngineConfig(generator="vllm", generator_options=options)
    needs = gpu_needs(config, files, "cuda")
    assert needs["weights"] == 2 * sum(values.values())
    assert needs["attention cache"] == 3 << 30
    halved = gpu_needs(
        replace(config, generator_options=replace(options, quantization="fp8")), files, "cuda"
    )
    layers = sum(count for name, count in values.items() if "layers" in name)
    assert needs["weights"] - halved["weights"] == layers
    torch_needs = gpu_needs(EngineConfig(generator="torch"), files, "cuda")
    assert torch_needs["weights"] == needs["weights"]
    assert "weights" not in gpu_needs(EngineConfig(urls=("http://there",)), files, "cuda")
    total = sum(needs.values())
    assert fits(needs, total).endswith("enough")
    assert fits(needs, total - 1).endswith("NOT ENOUGH")


@pytest.mark.parametrize(
    ("config", "device", "name"),
    [
        (EngineConfig(), "cpu", "cpu"),
        (EngineConfig(device="cuda"), "cuda", "vllm"),
        (EngineConfig(device="cpu"), "cpu", "cpu"),
        (EngineConfig(urls=("http://there",)), "cuda", "completions"),
        (EngineConfig(generator="torch"), "cuda", "torch"),
    ],
)
def test_the_token_engine_is_chosen_for_the_device(
    config: EngineConfig, device: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orpheus_plugin.engine.factory.vllm_installed", lambda: True)
    assert generator_name(config, device) == name


def test_doctor_reports_how_codec_sampler_and_gpu_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_MPS_PIPE_DIRECTORY", raising=False)
    assert gpu_choices(EngineConfig(generator="torch"), "cuda") == []
    cpu = gpu_choices(EngineConfig(generator="vllm"), "cpu")
    assert cpu == ["codec: in this process", "sampler: compact, the default on a CPU"]
    codec, sampler, mps, compiler, rest = gpu_choices(EngineConfig(generator="vllm"), "cuda:1")
    assert "shares the GPU's time with vLLM" in codec
    assert sampler.startswith("sampler: vLLM's own, the default on a GPU; FlashInfer")
    assert "serve --mps" in mps
    assert compiler.startswith("compiler for vLLM's kernels: ")
    assert "docs/gpu.md" in rest
    monkeypatch.setenv("CC", "no-such-compiler")
    compiler = gpu_choices(EngineConfig(generator="vllm"), "cuda")[3]
    assert compiler.endswith(
        "NONE, and vLLM will not start without: unset CC, which does not name a compiler"
    )
    options = VllmOptions(sampler="compact")
    asked = EngineConfig(generator="vllm", codec_process="vllm", generator_options=options)
    codec, sampler, *_ = gpu_choices(asked, "cuda")
    assert codec == "codec: in vLLM's worker, as asked; plain step"
    monkeypatch.setattr(
        "orpheus_plugin.cli.doctor.compiler_missing", lambda device: "triton is not installed"
    )
    tuned = EngineConfig(generator="vllm", codec_step="tuned")
    assert "tuned step, not compiled: triton is" in gpu_choices(tuned, "cuda")[0]
    assert sampler.startswith("sampler: compact, as asked")


def test_doctor_asks_an_mps_daemon_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_control(tmp_path, clients=(7,))
    monkeypatch.setenv("PATH", on_path(tmp_path))
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    config = EngineConfig(generator="vllm")
    assert "MPS is not in use: nvidia-cuda-mps-control fails" in gpu_choices(config, "cuda")[2]
    (tmp_path / "control").touch()
    assert "MPS is in use: 1 processes attached" in gpu_choices(config, "cuda")[2]


@pytest.mark.parametrize("command", ["say", "serve"])
def test_codec_and_sampler_can_be_chosen(command: str) -> None:
    from orpheus_plugin.cli.main import _parser
    from orpheus_plugin.cli.options import engine_config
    from orpheus_plugin.cli.serve import server_config

    def config(*options: str) -> EngineConfig:
        line = [command, *(["Hi."] if command == "say" else []), *options]
        args = _parser(line).parse_args(line)
        return server_config(args).engine if command == "serve" else engine_config(args)

    plain = config()
    assert (plain.codec_process, plain.generator_options) == ("auto", None)
    chosen = config("--codec-process", "vllm", "--sampler", "whole", "--generator", "vllm")
    assert chosen.codec_process == "vllm"
    assert chosen.generator_options == VllmOptions(sampler="whole")


REPORTS_A_GPU = """
import sys
import torch
from orpheus_plugin.cli.main import main
from orpheus_plugin.models import devices
devices.may_have_gpu = lambda: True
torch.cuda.is_available = lambda: True
torch.cuda.device_count = lambda: 1
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("generator", ["auto", "torch", "vllm"])
def test_doctor_on_a_gpu_that_torch_cannot_use_ends_with_what_failed(
    generator: str, tmp_path: Path
) -> None:
    """torch says that there is a GPU, and everything it is asked to do there fails."""
    done = subprocess.run(
        [sys.executable, "-c", REPORTS_A_GPU, "doctor", "--generator", generator],
        env={**os.environ, "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert HOW_TO_GET_ORPHEUS in lines
    assert any(line.startswith("model: mini in") for line in lines)
    assert any(line.startswith("GPU: torch cannot use it: ") for line in lines)
    assert lines[-1].startswith("FAILED: ")
    assert (TORCH_IS_SLOW in done.stdout) == (generator == "auto" and not vllm_installed())
    assert "Traceback" not in done.stdout + done.stderr


def test_doctor_fails_if_no_engine_can_speak(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--model", str(tmp_path)]) == 1
    assert "FAILED" in capsys.readouterr().out


def test_version_and_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert __version__ in capsys.readouterr().out
    assert main([]) == 2
