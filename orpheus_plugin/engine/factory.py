"""From a configuration to the running parts of an engine: which files, which token engine, how text
is cut."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from orpheus_plugin import models
from orpheus_plugin.engine.config import EngineConfig, GeneratorName
from orpheus_plugin.engine.utterance_job import EngineParts
from orpheus_plugin.errors import BadCheckpoint, InvalidOptions, ModelNotFound
from orpheus_plugin.models.devices import torch_installed, vllm_installed
from orpheus_plugin.models.files import ModelFiles, ModelSpec
from orpheus_plugin.options import SpeechOptions
from orpheus_plugin.text.cutter import TextOptions
from orpheus_plugin.text.pronunciations import Pronunciations
from orpheus_plugin.text.spelling import prepare as prepare_language
from orpheus_plugin.tokens.adapters import read_config
from orpheus_plugin.tokens.base import TokenGenerator
from orpheus_plugin.tokens.phrases import CachedGenerator, PhraseCache
from orpheus_plugin.tokens.vocabulary import Vocabulary

if TYPE_CHECKING:
    from orpheus_plugin.engine.codec_in_vllm import WorkerCodec

logger = logging.getLogger(__name__)

TORCH_IS_SLOW = (
    "vLLM is not installed, so torch generates on the GPU, which is slow and carries few turns at"
    " once: pip install 'orpheus_plugin[vllm]'"
)

MakeGenerator = Callable[[ModelFiles, Vocabulary], TokenGenerator]


def find_files(config: EngineConfig) -> ModelFiles:
    """The model's files on this machine (`models.find`). Raises ModelNotFound with the command that
    fetches it, or BadCheckpoint."""
    return models.find(config.model, device=config.device, codec=config.codec)


def add_adapters(config: EngineConfig, files: ModelFiles) -> ModelFiles:
    """The files with the configuration's adapters, of which the weights are checked when the engine
    starts.

    Raises InvalidOptions for a name that cannot be a voice's, ModelNotFound, or BadCheckpoint for a
    kind of adapter that is not supported.
    """
    on_servers = bool(config.urls)
    adapters = models.find_adapters(
        dict(config.adapters),
        voices=files.spec.voices or tuple(files.adapters),
        on_servers=on_servers,
    )
    if not on_servers:
        for name, adapter in adapters.items():
            try:
                read_config(Path(adapter.source))
            except (BadCheckpoint, ModelNotFound) as error:
                raise type(error)(f"adapter {name!r}: {error.message}") from error
    return files.with_adapters(adapters)


def build_parts(
    config: EngineConfig,
    files: ModelFiles,
    *,
    device: str,
    streams: int,
    generator: MakeGenerator | None = None,
    phrases: PhraseCache | None = None,
) -> EngineParts:
    """Read vocabulary and codec, make the token engine. Blocking.

    The token engine is not started. The codec is started, except in vLLM's worker, where it starts
    after vLLM.

    Args:
        device: "cpu", "cuda" or "cuda:N".
        streams: utterances that are generated and decoded at once.
        generator: makes the token engine in place of `build_generator`.
        phrases: is asked before the token engine; its directory is read here.
    """
    from orpheus_plugin.codec import open_decoder
    from orpheus_plugin.codec.batcher import CodecBatcher

    if device == "cpu":
        from orpheus_plugin.codec.cpu.decoder import compile_step_ahead

        compile_step_ahead(files.codec)
    prepare_language(_language(files.spec))
    vocabulary = Vocabulary.load(files.lm)
    if generator is not None:
        made = generator(files, vocabulary)
    else:
        made = build_generator(config, files, vocabulary, device=device, streams=streams)
    if config.codec_process == "vllm":
        codec = CodecBatcher(_codec_in_vllm(config, made, files, device, streams))
    else:
        decoder = open_decoder(files.codec, device=device, slots=streams, step=config.codec_step)
        codec = CodecBatcher(decoder)
        codec.start()
    if phrases is not None:
        phrases.open()
        made = CachedGenerator(made, phrases)
    return EngineParts(vocabulary, made, codec, files.spec.sampling, files.adapters)


def _codec_in_vllm(
    config: EngineConfig, generator: TokenGenerator, files: ModelFiles, device: str, streams: int
) -> WorkerCodec:
    from orpheus_plugin.engine.codec_in_vllm import WORKER, WorkerCodec
    from orpheus_plugin.tokens.vllm.generator import VllmGenerator

    if not isinstance(generator, VllmGenerator) or generator.worker != WORKER:
        raise InvalidOptions(
            f"codec_process='vllm' needs the vllm generator, not {type(generator).__name__}"
        )
    return WorkerCodec(generator, files.codec, slots=streams, device=device, step=config.codec_step)


def generator_name(config: EngineConfig, device: str) -> GeneratorName:
    """The token engine of a configuration on this device."""
    if config.generator != "auto":
        return config.generator
    if config.urls:
        return "completions"
    if device == "cpu":
        return "cpu"
    return "vllm" if device.startswith("cuda") and vllm_installed() else "torch"


def build_generator(
    config: EngineConfig, files: ModelFiles, vocabulary: Vocabulary, *, device: str, streams: int
) -> TokenGenerator:
    """The token engine of a configuration, not yet started. `streams` is how many requests run at
    once."""
    name, options = generator_name(config, device), config.generator_options
    folders = {voice: Path(adapter.source) for voice, adapter in files.adapters.items()}
    if name == "completions":
        from orpheus_plugin.tokens.completions.generator import CompletionsGenerator
        from orpheus_plugin.tokens.completions.options import CompletionsOptions

        if not config.urls:
            raise InvalidOptions(
                "the completions generator needs urls=(...) of OpenAI-style servers"
            )
        if options is not None and not isinstance(options, CompletionsOptions):
            raise InvalidOptions("generator_options must be CompletionsOptions for this generator")
        return CompletionsGenerator(
            config.urls,
            vocabulary,
            api_key=config.api_key,
            options=options,
            adapters={voice: adapter.source for voice, adapter in files.adapters.items()},
        )
    if name == "vllm":
        from orpheus_plugin.engine.codec_in_vllm import WORKER
        from orpheus_plugin.tokens.vllm.generator import VllmGenerator
        from orpheus_plugin.tokens.vllm.options import VllmOptions

        if options is not None and not isinstance(options, VllmOptions):
            raise InvalidOptions("generator_options must be VllmOptions for this generator")
        return VllmGenerator(
            files.lm,
            vocabulary,
            options,
            worker=WORKER,
            max_streams=streams,
            device=device,
            adapters=folders,
        )
    if options is not None:
        raise InvalidOptions(f"the {name} generator takes no generator_options")
    if name == "cpu":
        from orpheus_plugin.tokens.cpu.generator import CpuLlama, compile_step_ahead

        if device != "cpu":
            raise InvalidOptions(f"the cpu generator runs on device='cpu', not {device!r}")
        compile_step_ahead(files.lm)
        return CpuLlama(files.lm, vocabulary, max_streams=streams, adapters=folders)
    if not torch_installed():
        raise InvalidOptions("the torch generator needs torch: pip install 'orpheus_plugin[gpu]'")
    from orpheus_plugin.tokens.torch.generator import TorchLlama

    if config.generator == "auto" and device.startswith("cuda"):
        logger.warning("%s", TORCH_IS_SLOW)
    return TorchLlama(files.lm, vocabulary, max_streams=streams, device=device, adapters=folders)


def _language(spec: ModelSpec) -> str:
    return spec.languages[0] if spec.languages else "en"


def text_options(
    spec: ModelSpec, config: EngineConfig | None = None, options: SpeechOptions | None = None
) -> TextOptions:
    """How a turn's text is cut and normalized: for the language, the tags and the longest utterance
    of its model.

    A turn's options override the engine's, the engine's override the model's.
    """
    defaults = TextOptions()
    config, options = config or EngineConfig(), options or SpeechOptions()
    asked = (options.spell_numbers, config.spell_numbers, spec.spell_numbers)
    longest = min(defaults.max_chars, spec.max_utterance_chars or defaults.max_chars)
    return TextOptions(
        tags=frozenset(spec.tags),
        spell_numbers=next(choice for choice in asked if choice is not None),
        pronunciations=Pronunciations(config.pronunciations) | (options.pronunciations or {}),
        language=_language(spec),
        max_chars=longest,
        join_chars=min(defaults.join_chars, longest),
    )
