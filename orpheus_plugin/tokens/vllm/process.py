"""Starts and stops vLLM's AsyncLLM and its processes, on a worker thread."""

from __future__ import annotations

import importlib.util
import logging
import multiprocessing
import os
import sys
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from orpheus_plugin.errors import EngineDied, InvalidOptions
from orpheus_plugin.tokens.vllm import plugin

logger = logging.getLogger(__name__)

_ENVIRONMENT = {
    # Forking a process that has threads, an event loop and perhaps CUDA fails later, with unclear
    # errors.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
}
_SHUTDOWN_S = 2.0


def check_process() -> None:
    """Raises InvalidOptions if vLLM is missing or cannot start in this process."""
    if importlib.util.find_spec("vllm") is None:
        raise InvalidOptions("vLLM is not installed: pip install 'orpheus_plugin[vllm]'")
    process = multiprocessing.current_process()
    if getattr(process, "_inheriting", False):  # spawned, and still importing its main module
        raise InvalidOptions(
            "the main script starts vLLM when it is imported; put that under: if __name__ =="
            ' "__main__":'
        )
    if process.daemon:
        raise InvalidOptions(
            "vLLM cannot start in a daemonic process, which may have no children: run"
            " `orpheus-tts serve` and give this process its url, or start the process with"
            " daemon=False"
        )


def prepare() -> None:
    """Set the environment that vLLM's processes inherit. Raises InvalidOptions if vLLM cannot be
    imported."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ[plugin.PARENT_KEY] = str(os.getpid())
    try:
        import vllm.v1.engine.async_llm  # noqa: F401
    except ImportError as error:
        raise InvalidOptions(
            f"vLLM cannot be imported ({error}); install it with: pip install"
            " 'orpheus_plugin[vllm]'"
        ) from error


def build(arguments: Mapping[str, Any]) -> Any:
    """An AsyncLLM, ready. Blocking: seconds on a CPU, up to minutes on a GPU.

    Raises InvalidOptions for arguments that vLLM refuses, EngineDied when its processes fail.
    """
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    try:
        return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
    except (ValueError, TypeError) as error:
        raise InvalidOptions(
            f"vLLM refuses {arguments['model']} with these options: {error}"
        ) from error
    except (RuntimeError, OSError, TimeoutError) as error:
        raise EngineDied(
            f"vLLM did not start: {error}. Its own message is above, on standard error."
            + _missing_guard()
        ) from error


def shut_down(engine: Any) -> None:
    """Stop an engine's processes. Blocking, up to seconds."""
    try:
        engine.shutdown(timeout=_SHUTDOWN_S)
    except Exception:  # a dead engine may not shut down cleanly
        logger.debug("vLLM's shutdown failed", exc_info=True)
    # vLLM calls it again from __del__, perhaps when the interpreter ends.
    engine.shutdown = _nothing


def discard(building: Future[Any]) -> None:
    """Stop an engine whose start was cancelled when it is built, on the thread that built it."""
    if not building.cancelled() and building.exception() is None:
        shut_down(building.result())


def _missing_guard() -> str:
    """A hint for the error message if the main script seems to have no `if __name__` guard."""
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    try:
        unguarded = path is not None and "__name__" not in Path(path).read_text("utf-8")
    except (OSError, ValueError):
        return ""
    if not unguarded:
        return ""
    return (
        f' {path} starts it without: if __name__ == "__main__": - vLLM\'s processes import that'
        " file"
        " and would start it again."
    )


def _nothing() -> None:
    pass
