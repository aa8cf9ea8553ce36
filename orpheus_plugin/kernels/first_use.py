"""What is compiled at its first use on a machine: once, and in another process where that is
possible. numba compiles on one core only, and a process that has compiled a step keeps some 150 MB
of it."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from orpheus_plugin.kernels import compiled

logger = logging.getLogger(__name__)

COMPILING_TAKES = "10 to 30 s, longer on a busy machine"
"""For the codec and for the token engine, each on a core of its own."""

LONGEST_S = 180.0
"""How long a process waits for another one that compiles."""

_running: dict[str, subprocess.Popen[bytes]] = {}
_lock = threading.Lock()


def compile_ahead(what: str, module: str, *arguments: str) -> None:
    """Begin to compile `what` with `python -m module arguments`, once; `first_use` waits for it.

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
            _announce(what)


@contextlib.contextmanager
def first_use(what: str) -> Iterator[None]:
    """Around the first calls of `what`: waits for the process that compiles it, if one does. Logs a
    warning if these calls have to compile it: of several processes one does, and the others wait
    for it. Blocking."""
    wait_for(what)
    with contextlib.ExitStack() as alone:
        if is_compiled(what) is False:
            with contextlib.suppress(Timeout, OSError):
                lock = FileLock(_mark(what).with_suffix(".lock"), timeout=LONGEST_S)
                alone.enter_context(lock)
        if not is_compiled(what):
            _announce(what)
        yield
        if compiled.FOLDER is not None:
            with contextlib.suppress(OSError):
                _mark(what).touch()


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


def is_compiled(what: str) -> bool | None:
    """Whether `first_use` of it has ended on this machine; None if compiled code cannot be kept."""
    return None if compiled.FOLDER is None else _mark(what).exists()


def _mark(what: str) -> Path:
    assert compiled.FOLDER is not None
    return compiled.FOLDER / f"{what.replace(' ', '-')}.compiled"


def _announce(what: str) -> None:
    once = "for this process" if compiled.FOLDER is None else "once for this machine"
    logger.warning("Compiling the %s %s: %s", what, once, COMPILING_TAKES)


def _frozen() -> bool:
    return not sys.executable or bool(getattr(sys, "frozen", False))
