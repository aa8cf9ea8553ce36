"""The Hugging Face hub: its cache on this machine, and downloading into it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from orpheus_plugin.errors import InvalidOptions, ModelNotFound

logger = logging.getLogger(__name__)

Snapshot = Callable[..., str]
"""`huggingface_hub.snapshot_download`, or a stand-in with its keywords repo_id, revision,
allow_patterns."""


def looks_like_repo(text: str) -> bool:
    owner, slash, name = text.partition("/")
    return bool(slash and owner and name) and not any(
        (part.startswith((".", "~")) or "/" in part or "\\" in part) for part in (owner, name)
    )


def cached(
    repo: str, revision: str | None, cache_dir: str | Path | None, file: str = "config.json"
) -> Path | None:
    """The snapshot directory of a repository in the hub cache; it may be incomplete. `file` is one
    that all repositories of its kind have."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    try:
        found = try_to_load_from_cache(repo, file, cache_dir=cache_dir, revision=revision)
    except ValueError as error:  # not a valid repository name
        raise InvalidOptions(str(error)) from error
    return Path(found).parent if isinstance(found, str) else None


def hub_snapshot() -> Snapshot:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ModelNotFound(
            "downloading needs huggingface_hub; run: pip install 'orpheus_plugin[local]'"
        ) from error
    return snapshot_download


def fetch_first(
    fetch: Snapshot,
    what: str,
    repos: tuple[str, ...],
    patterns: tuple[str, ...],
    revision: str | None,
    cache_dir: str | Path | None,
    lacks: Callable[[Path], str | None],
) -> Path:
    """The files of the first repository that gives all of them. Raises ModelNotFound with each
    one's refusal."""
    refusals: list[str] = []
    gated = False
    for place, repo in enumerate(repos):
        try:
            folder = Path(
                fetch(
                    repo_id=repo,
                    revision=revision if place == 0 else None,
                    allow_patterns=list(patterns),
                    cache_dir=cache_dir,
                )
            )
        except Exception as error:
            # The hub's client raises errors of its own, of its HTTP library and of the system.
            status = getattr(getattr(error, "response", None), "status_code", None)
            gated = gated or status in (401, 403)
            refusals.append(f"{repo}: {_in_one_line(error, status)}")
            logger.info("Not from %s", refusals[-1])
            continue
        missing = lacks(folder)
        if missing is None:
            if gated:
                logger.warning(
                    "%s is downloaded from its open mirror %s%s", what, repo, _advice(repos[0])
                )
            return folder
        refusals.append(f"{repo}: incomplete, {missing}")
    advice = _advice(repos[0]) if gated else ""
    raise ModelNotFound(f"could not download {what} ({'; '.join(refusals)}){advice}")


def _advice(repo: str) -> str:
    return (
        f"; to use the official one, accept its license at https://huggingface.co/{repo}"
        " and run: hf auth login"
    )


def _in_one_line(error: Exception, status: int | None) -> str:
    if status in (401, 403):
        return f"access refused ({status})"
    if status == 404:
        return "no such repository or revision (404)"
    if status is not None:
        return f"the hub answered {status}"
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        return error.strerror  # such as: No space left on device
    text = " ".join(str(error).split()) or type(error).__name__
    return f"no usable connection to the hub: {text[:160]}"


@contextlib.contextmanager
def progress_bars(shown: bool) -> Iterator[None]:
    if shown:
        yield
        return
    try:
        from huggingface_hub.utils.tqdm import (
            are_progress_bars_disabled,
            disable_progress_bars,
            enable_progress_bars,
        )
    except ImportError:
        yield
        return
    before = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            enable_progress_bars()
