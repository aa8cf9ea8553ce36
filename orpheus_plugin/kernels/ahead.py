"""Compiles in other processes what this one needs: numba compiles on one core only, and a process
that has compiled a step keeps some 150 MB of it."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import threading

from orpheus_plugin.kernels.compiled import COMPILING_TAKES, LONGEST_S, is_compiled

logger = logging.getLogger(__name__)

_running: dict[str, subprocess.Popen[bytes]] = {}
_lock = threading.Lock()


def compile_ahead(what: str, module: str, *arguments: str) -> None:
    """Begin to compile `what` with `python -m module arguments`, once; `wait_for` waits for it.

    Does nothing if it is compiled, if compiled code cannot be kept, or in a frozen application,
    which has no Python to start.
    """
    with _lock:
        if what in _running or is_compiled(what) is not False or _frozen():
            return
        with contextlib.suppress(OSError):
            _running[what] = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            logger.warning("Compiling the %s once for this machine: %s", what, COMPILING_TAKES)


def wait_for(what: str) -> None:
    """Until the other process has ended, if one compiles `what`. Blocking."""
    with _lock:
        process = _running.pop(what, None)
    if process is None:
        return
    try:
        process.wait(LONGEST_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.returncode:
        logger.info("%s: the process that compiled it ended with %d", what, process.returncode)


def _frozen() -> bool:
    return not sys.executable or bool(getattr(sys, "frozen", False))
