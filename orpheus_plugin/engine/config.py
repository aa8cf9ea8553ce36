"""The configuration of an engine: the model, its device, and its limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from orpheus_plugin.codec import CodecStep
from orpheus_plugin.errors import InvalidOptions
from orpheus_plugin.options import MAX_TEXT_CHARS, check_count
from orpheus_plugin.text.pronunciations import Pronunciations
from orpheus_plugin.tokens.phrases import CacheOptions

if TYPE_CHECKING:
    from orpheus_plugin.tokens.completions.options import CompletionsOptions
    from orpheus_plugin.tokens.vllm.options import VllmOptions

GeneratorName = Literal["auto", "cpu", "torch", "vllm", "completions"]


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """The configuration of an engine. Equal configurations share an engine within a process.

    Attributes:
        model: a known name (`orpheus-tts voices` lists them), a hub repository, a local directory,
            or "auto": Orpheus 3B if there is CUDA, else the small bundled voice.
        codec: a SNAC 24 kHz snapshot directory; None is the model's own.
        device: "auto", "cpu", "cuda" or "cuda:N".
        generator: which token engine; "auto" is completions if `urls` are given, the compiled one
            on a CPU, vLLM if CUDA and vLLM are present, else torch.
        urls: OpenAI-style servers for the completions generator.
        api_key: their key.
        generator_options: a VllmOptions or CompletionsOptions, for the generator of that kind; None
            is its defaults.
        codec_process: where the codec runs beside the vLLM generator: "own" is this process, "vllm"
            the worker that has the model (see `codec_in_vllm`). "auto" is own: "vllm" has not run
            on a GPU yet.
        codec_step: "plain", or "tuned" for a GPU that a language model also uses: see
            `codec.torch.step.TorchDecoder`. The default is plain until the other has been measured
            on a GPU. Ignored on a CPU.
        max_turns: turns that may speak at once; None is the default of the device.
        measure: measure after the start (before it on a GPU), and while running, how many turns (up
            to max_turns) stay in real time, and take no more.
        look_ahead: utterances of one turn generated at once.
        ahead_s: seconds generation may be ahead of a listener who plays at once; None is no limit.
        max_text_chars: characters of text a turn takes.
        spell_numbers: write out numbers, money, dates and the like before the model reads them;
            None is the model's default: not for Orpheus 3B, which reads figures, though less
            reliably.
        pronunciations: written word -> how it is spoken, for names that no rule can know; see
            `text.Pronunciations`.
        adapters: more voices, LoRA adapters of this model: name -> directory, hub
            repository or "bruno", which comes with the bundled model, each perhaps with "#" and the
            name that its training put before the text (see `models.adapters`). With `urls`: name ->
            model name on the token servers (vLLM's --lora-modules).
        cache: keep what was spoken and replay it where the same is asked for again (the phrase
            cache); None keeps nothing.
        strict_voices: a voice that the model does not have is always an error. Otherwise a voice of
            another Orpheus model or of a known vendor is replaced by one of the model's own.
    """

    model: str = "auto"
    codec: Path | None = None
    device: str = "auto"
    generator: GeneratorName = "auto"
    urls: tuple[str, ...] = ()
    api_key: str | None = field(default=None, repr=False)
    generator_options: VllmOptions | CompletionsOptions | None = None
    codec_process: Literal["auto", "own", "vllm"] = "auto"
    codec_step: CodecStep = "plain"
    max_turns: int | None = None
    measure: bool = False
    look_ahead: int = 2
    ahead_s: float | None = 20.0
    max_text_chars: int = MAX_TEXT_CHARS
    spell_numbers: bool | None = None
    pronunciations: Mapping[str, str] | None = None
    adapters: Mapping[str, str | Path] | tuple[tuple[str, str], ...] = ()
    strict_voices: bool = False
    cache: CacheOptions | None = None

    def __post_init__(self) -> None:
        for name in ("max_turns", "look_ahead", "max_text_chars"):
            check_count(name, getattr(self, name), 1)
        if self.pronunciations is not None:
            object.__setattr__(self, "pronunciations", Pronunciations(self.pronunciations))
        try:  # so that configurations can be compared and hashed
            pairs = tuple((name, str(source)) for name, source in dict(self.adapters).items())
        except (TypeError, ValueError):
            raise InvalidOptions(
                f"adapters must be a table of names and directories, not {self.adapters!r}"
            ) from None
        object.__setattr__(self, "adapters", pairs)
