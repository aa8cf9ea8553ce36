"""Voices that are LoRA adapters: their folders on this machine, and downloading them.

An adapter is named as `SOURCE` or `SOURCE#PROMPT`. SOURCE is a folder, a hub repository, or the
name of an adapter that comes with the package: `bruno`, for the bundled model. PROMPT is the name
that its training put before the text ("alice: Hello."), by default the voice's own name. If it is
empty, the text has no name before it: many single-speaker adapters were trained on text alone.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orpheus_plugin.errors import InvalidOptions, ModelNotFound
from orpheus_plugin.models.hub import (
    Snapshot,
    cached,
    fetch_first,
    hub_snapshot,
    looks_like_repo,
    progress_bars,
)
from orpheus_plugin.models.voices import DEFAULT_NAMES

logger = logging.getLogger(__name__)

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_NEVER_IN_NAMES = ",=#:"
_BUNDLED = Path(__file__).parents[1] / "mini" / "adapters"


@dataclass(frozen=True, slots=True)
class AdapterVoice:
    """A voice that is an adapter.

    Attributes:
        source: its folder on this machine; with token servers the name under which they serve it.
        prompt: its name in prompts; "" for none.
    """

    source: str
    prompt: str


def find_adapters(
    asked: Mapping[str, str | Path],
    *,
    voices: tuple[str, ...] = (),
    on_servers: bool = False,
    cache_dir: str | Path | None = None,
) -> dict[str, AdapterVoice]:
    """Find the adapters of these names. Reads folders and the local hub cache, never the network.

    Args:
        asked: voice -> `SOURCE` or `SOURCE#PROMPT`.
        voices: the base model's own.
        on_servers: the sources are names on token servers, so no files are searched.

    Raises InvalidOptions for a name that cannot be a voice's; ModelNotFound with the command that
    downloads it.
    """
    taken = {voice.casefold(): voice for voice in voices}
    found: dict[str, AdapterVoice] = {}
    for name, value in asked.items():
        _check_name(name, taken)
        taken[name.casefold()] = name
        source, prompt = _split(str(value))
        folder = source if on_servers else str(_locate(name, source, cache_dir))
        found[name] = AdapterVoice(folder, name if prompt is None else prompt)
    return found


def adapter_option(text: str) -> tuple[str, str]:
    """`NAME=SOURCE` of a command line, or the NAME of an adapter that comes with the package.
    Raises InvalidOptions."""
    name, equals, source = text.partition("=")
    if not equals and text in bundled_adapters():
        return text, text
    if not (name.strip() and equals and source.strip()):
        raise InvalidOptions(
            "an adapter is NAME=DIR, NAME=owner/repository or, of this package,"
            f" {' or '.join(bundled_adapters())}, not {text!r}"
        )
    return name.strip(), source.strip()


def bundled_adapters() -> dict[str, Path]:
    """The adapters that come with the package: name -> folder."""
    return {folder.name: folder for folder in sorted(_BUNDLED.iterdir()) if folder.is_dir()}


def download_adapter(
    source: str,
    *,
    progress: bool = True,
    cache_dir: str | Path | None = None,
    snapshot: Snapshot | None = None,
) -> Path:
    """Download an adapter from the hub into its cache; only its two files, never a pickle. Returns
    its folder.

    Args: as `models.download`. Raises ModelNotFound with the reason.
    """
    repo, _ = _split(source)
    if not looks_like_repo(repo):
        raise ModelNotFound(f"no adapter {repo!r} to download: use owner/name")
    fetch = snapshot if snapshot is not None else hub_snapshot()
    with progress_bars(progress):
        patterns = (_CONFIG, _WEIGHTS)
        return fetch_first(fetch, f"the adapter {repo}", (repo,), patterns, None, cache_dir, _lacks)


def _lacks(folder: Path) -> str | None:
    for name in (_CONFIG, _WEIGHTS):
        if not (folder / name).is_file():
            return f"no {name}" + (" (a pickled one is not taken)" if name == _WEIGHTS else "")
    return None


def _split(text: str) -> tuple[str, str | None]:
    if Path(text).expanduser().is_dir():
        return text, None
    source, mark, prompt = text.rpartition("#")
    return (source, prompt.strip()) if mark else (text, None)


def _check_name(name: str, taken: Mapping[str, str]) -> None:
    if not isinstance(name, str) or name != name.strip() or name.casefold() in DEFAULT_NAMES:
        raise InvalidOptions(f"{name!r} cannot be the name of an adapter's voice")
    if any(sign in name for sign in _NEVER_IN_NAMES) or not name.isprintable():
        raise InvalidOptions(
            f"the name {name!r} of an adapter's voice must not contain any of"
            f" {' '.join(_NEVER_IN_NAMES)}"
        )
    if name.casefold() in taken:
        raise InvalidOptions(
            f"there is a voice {taken[name.casefold()]!r} already: give the adapter another name;"
            f" if its prompts have this one, write NEWNAME=SOURCE#{name}"
        )


def _locate(name: str, source: str, cache_dir: str | Path | None) -> Path:
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if source in (bundled := bundled_adapters()):
        return bundled[source]
    if not looks_like_repo(source):
        raise ModelNotFound(f"adapter {name!r}: no directory {source}")
    snapshot = cached(source, None, cache_dir, file=_CONFIG)
    if snapshot is None:
        raise ModelNotFound(
            f"adapter {name!r}: {source} is not on this machine; run: orpheus-tts download"
            f" --adapter {source}"
        )
    return snapshot
