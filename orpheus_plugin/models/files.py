"""Which Orpheus models there are, and where their files are.

Nothing here loads torch, and only `download` uses the network.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from orpheus_plugin.errors import BadCheckpoint, ModelNotFound
from orpheus_plugin.json_files import read_object
from orpheus_plugin.models.adapters import AdapterVoice
from orpheus_plugin.models.catalog import ALIASES, CATALOG, SNAC_24KHZ, ModelSpec
from orpheus_plugin.models.devices import cuda_available
from orpheus_plugin.models.hub import (
    Snapshot,
    cached,
    fetch_first,
    hub_snapshot,
    looks_like_repo,
    progress_bars,
)
from orpheus_plugin.models.metadata import described
from orpheus_plugin.models.voices import pick_voice

__all__ = [
    "SNAC_24KHZ",
    "ModelFiles",
    "ModelSpec",
    "check_voice",
    "choose",
    "download",
    "find",
    "known_models",
    "locate",
]

logger = logging.getLogger(__name__)

HOW_TO_GET_ORPHEUS = (
    "Orpheus 3B is not on this machine, so the small bundled voice speaks; download it with:"
    " orpheus-tts download orpheus-3b (in a clone: make bot MODEL=orpheus-3b)"
)

_MINI_DIR = Path(__file__).parents[1] / "mini"
_LM_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "model*.safetensors",
    "model.safetensors.index.json",
)
_CODEC_FILES = ("config.json", "pytorch_model.bin", "model.safetensors")


@dataclass(frozen=True)
class ModelFiles:
    """A model on this machine.

    Attributes:
        spec: what it can do; its voices are the model's own and those of `adapters`.
        lm, codec: directories of its language model and its codec.
        adapters: voices that are LoRA adapters.
    """

    spec: ModelSpec
    lm: Path
    codec: Path
    adapters: Mapping[str, AdapterVoice] = field(default_factory=dict)

    def with_adapters(self, adapters: Mapping[str, AdapterVoice]) -> ModelFiles:
        """With these adapters as well. Where the model does not name its voices, the adapters' are
        not in `spec.voices` either: then any name is taken for one of the model's."""
        voices = self.spec.voices + tuple(adapters) if self.spec.voices else ()
        return replace(
            self, spec=replace(self.spec, voices=voices), adapters={**self.adapters, **adapters}
        )

    def check_voice(self, voice: str | None, *, strict: bool = False) -> str:
        """The voice that speaks (`check_voice`), an adapter's spelled as in `adapters`. Raises
        UnknownVoice."""
        found = check_voice(self.spec, voice, strict=strict)
        named = {name.casefold(): name for name in self.adapters}
        return named.get(found.strip().casefold(), found)


def known_models() -> dict[str, ModelSpec]:
    """The known models by name. `mini` is among them if this installation has its files."""
    models = dict(CATALOG)
    if _lacks_lm(_MINI_DIR) is None:
        models["mini"] = described(ModelSpec(name="mini"), _MINI_DIR)
    return models


def choose(name: str = "auto", *, device: str = "auto") -> str:
    """The model to use: `name` itself, or for "auto" `orpheus-3b` on a CUDA device and the bundled
    `mini` elsewhere.

    With `device` "auto" it is found out whether there is a CUDA device; without torch there is
    none.
    """
    if name != "auto":
        return name
    cuda = cuda_available() if device == "auto" else device.startswith("cuda")
    chosen = "orpheus-3b" if cuda else "mini"
    reason = "a CUDA GPU is present" if cuda else "no CUDA GPU is used"
    logger.info("Model: %s (chosen because %s)", chosen, reason)
    return chosen


def find(
    name: str = "auto",
    *,
    device: str = "auto",
    codec: str | Path | None = None,
    cache_dir: str | Path | None = None,
    say: Callable[[str], object] = logger.warning,
) -> ModelFiles:
    """The files of the model that `choose` gives. Reads the local hub cache, never the network.

    If "auto" chooses Orpheus 3B and it is not on this machine, these are the bundled voice's files,
    and `say` gets one line with the command that fetches Orpheus. Raises as `locate` does.
    """
    chosen = choose(name, device=device)
    try:
        return locate(chosen, codec=codec, cache_dir=cache_dir)
    except ModelNotFound:
        if chosen == name or codec is not None or _lacks_lm(_MINI_DIR) is not None:
            raise
    say(HOW_TO_GET_ORPHEUS)
    return locate("mini", cache_dir=cache_dir)


def check_voice(spec: ModelSpec, voice: str | None, *, strict: bool = False) -> str:
    """The voice for the prompt (`voices.pick_voice`); "" for a prompt without a voice. Raises
    UnknownVoice."""
    return pick_voice(spec.voices, voice, model=spec.name, strict=strict) or ""


def locate(
    name_or_path: str | Path,
    *,
    codec: str | Path | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
) -> ModelFiles:
    """Find a model's files on this machine. Reads the local hub cache, never the network.

    Args:
        name_or_path: a name of `known_models`, a hub repository (`owner/name`), or a directory laid
            out like a repository's snapshot. A directory may have its codec in `snac/` and a
            description in a block "orpheus" of its config.json (voices, languages, tags, license,
            spell_numbers).
        codec: directory of the SNAC codec; by default the model's own, else SNAC 24 kHz from the
            hub cache.
        revision: branch, tag or commit of the hub repository; by default `main`.
        cache_dir: the hub cache, by default where huggingface_hub keeps it.

    Raises ModelNotFound with the command that fetches it; BadCheckpoint for a directory that is not
    a model.
    """
    text = str(name_or_path)
    folder = Path(name_or_path).expanduser()
    spec = _spec_of(text)
    if spec is not None and spec.name == "mini":
        return ModelFiles(spec, _MINI_DIR, _find_codec(spec, _MINI_DIR, codec, text, cache_dir))
    if spec is None:
        if folder.is_dir():
            missing = _lacks_lm(folder)
            if missing is not None:
                raise BadCheckpoint(f"{folder} is not an Orpheus model: {missing}")
            spec = described(ModelSpec(name=folder.resolve().name), folder)
            return ModelFiles(spec, folder, _find_codec(spec, folder, codec, text, cache_dir))
        if not looks_like_repo(text):
            if text == "mini":
                raise ModelNotFound("this installation does not contain the bundled model 'mini'")
            raise ModelNotFound(
                f"no model {text!r}: neither a directory nor one of {', '.join(known_models())}"
            )
        spec = ModelSpec(name=text, repo_ids=(text,))
    for repo in spec.repo_ids:
        snapshot = cached(repo, revision, cache_dir)
        if snapshot is not None and _lacks_lm(snapshot) is None:
            if _unknown(spec):
                spec = described(spec, snapshot)
            return ModelFiles(spec, snapshot, _find_codec(spec, snapshot, codec, text, cache_dir))
    raise ModelNotFound(
        f"{text} is not on this machine; run: orpheus-tts download {text}"
        + (f" (revision {revision})" if revision else "")
    )


def download(
    name: str,
    *,
    revision: str | None = None,
    progress: bool = True,
    cache_dir: str | Path | None = None,
    snapshot: Snapshot | None = None,
) -> ModelFiles:
    """Download a model and its codec into the hub cache (only the needed files) and return where
    they are.

    If the official repository refuses (it asks for an account and an accepted license), its open
    mirrors are tried. A token is taken from the environment (`HF_TOKEN`) or from `hf auth login`.

    Args:
        name: a name of `known_models` or a hub repository. Files on this machine, also a
            directory's, are not fetched.
        revision: of the model's official repository, by default `main`. Mirrors are always read at
            `main`.
        progress: whether to show progress bars.
        cache_dir: the hub cache, by default where huggingface_hub keeps it.
        snapshot: replaces `huggingface_hub.snapshot_download`.

    Raises ModelNotFound if no source gave the files, with the reason of each source.
    """
    spec = _spec_of(name)
    if spec is None:
        if Path(name).expanduser().is_dir():
            return locate(name, cache_dir=cache_dir)
        if not looks_like_repo(name):
            raise ModelNotFound(
                f"no model {name!r} to download: use owner/name or one of"
                f" {', '.join(known_models())}"
            )
        spec = ModelSpec(name=name, repo_ids=(name,))
    if not spec.repo_ids:
        return locate(name, cache_dir=cache_dir)
    fetch = snapshot if snapshot is not None else hub_snapshot()
    logger.info("License of %s: %s", spec.name, spec.license)
    with progress_bars(progress):
        lm = fetch_first(fetch, spec.name, spec.repo_ids, _LM_FILES, revision, cache_dir, _lacks_lm)
        if _unknown(spec):
            spec = described(spec, lm)
        own = lm / "snac"
        codec = (
            own
            if _lacks_codec(own) is None
            else fetch_first(
                fetch, "its codec", (spec.codec_repo,), _CODEC_FILES, None, cache_dir, _lacks_codec
            )
        )
    return ModelFiles(spec, lm, codec)


def _spec_of(name: str) -> ModelSpec | None:
    """The spec of a known name, an alias or a known repository."""
    models = known_models()
    name_there = ALIASES.get(name.lower(), name)
    if name_there in models:
        return models[name_there]
    holders = [spec for spec in models.values() if name in spec.repo_ids]
    if not holders:
        return None
    if len(holders) == 1:
        return holders[0]
    return replace(  # one checkpoint speaks several languages
        holders[0],
        name=name,
        repo_ids=(name,),
        voices=tuple(v for spec in holders for v in spec.voices),
        languages=tuple(code for spec in holders for code in spec.languages),
        tags=tuple(dict.fromkeys(t for spec in holders for t in spec.tags)),
    )


def _unknown(spec: ModelSpec) -> bool:
    """Whether nothing is known of the model but its repository."""
    return spec.name in spec.repo_ids and not spec.voices


def _lacks_lm(folder: Path) -> str | None:
    """What is missing in a directory for a language model, None if nothing."""
    for name in ("config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            return f"no {name}"
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = read_object(index).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            return f"{index.name} lists no weights"
        for shard in sorted({str(s) for s in shards.values()}):
            if not (folder / shard).is_file():
                return f"no {shard}"
        return None
    if any((folder / n).is_file() for n in ("model.safetensors", "pytorch_model.bin")):
        return None
    return "no model.safetensors"


def _lacks_codec(folder: Path) -> str | None:
    """What is missing in a directory for a SNAC codec, None if nothing."""
    if not (folder / "config.json").is_file():
        return "no config.json"
    if any((folder / n).is_file() for n in ("model.safetensors", "pytorch_model.bin")):
        return None
    return "no model.safetensors or pytorch_model.bin"


def _find_codec(
    spec: ModelSpec,
    lm: Path,
    given: str | Path | None,
    asked_for: str,
    cache_dir: str | Path | None,
) -> Path:
    if given is not None:
        folder = Path(given).expanduser()
        missing = _lacks_codec(folder)
        if missing is not None:
            raise ModelNotFound(f"{folder} is not a SNAC codec: {missing}")
        return folder
    if _lacks_codec(lm / "snac") is None:
        return lm / "snac"
    shared = cached(spec.codec_repo, None, cache_dir)
    if shared is not None and _lacks_codec(shared) is None:
        return shared
    name = asked_for if spec.repo_ids else "orpheus-3b"
    raise ModelNotFound(
        f"the SNAC codec {spec.codec_repo} is not on this machine; run: orpheus-tts download {name}"
    )
