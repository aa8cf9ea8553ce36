"""NVIDIA's Multi-Process Service for this server: processes that share a GPU run on it at once
instead of taking turns.

Without it the GPU switches between the codec's process and vLLM's, and each waits for the other.
The daemon `nvidia-cuda-mps-control` comes with NVIDIA's driver. A process uses it if
CUDA_MPS_PIPE_DIRECTORY names the daemon's directory when the process first uses CUDA
(docs.nvidia.com/deploy/mps).
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from orpheus_plugin.errors import InvalidOptions

logger = logging.getLogger(__name__)

CONTROL = "nvidia-cuda-mps-control"
PIPE_VARIABLE = "CUDA_MPS_PIPE_DIRECTORY"
LOG_VARIABLE = "CUDA_MPS_LOG_DIRECTORY"

_PARENT = "/tmp"
"""Where the daemon's directory is made, whatever TMPDIR says: the path of a Unix socket has at most
107 bytes."""
_TIMEOUT_S = 10.0


class Mps:
    """A running daemon: our own, which `close` ends, or one that ran already."""

    def __init__(self, directory: Path, *, own: bool) -> None:
        self.directory = directory
        self.own = own

    def clients(self) -> list[int]:
        """Process ids that are attached. Blocking, up to seconds. Raises InvalidOptions if the
        daemon is gone."""
        servers = _numbers(_ask("get_server_list", self.directory))
        return [
            pid for server in servers
            for pid in _numbers(_ask(f"get_client_list {server}", self.directory))
        ]  # fmt: skip

    def check(self, processes: int) -> str:
        """A line for the log: whether this number of processes uses the daemon. Blocking, up to
        seconds."""
        try:
            attached = len(self.clients())
        except InvalidOptions as error:
            return f"MPS is not in use: {error.message}"
        if attached >= processes:
            return f"MPS is in use: {attached} processes attached"
        return (
            f"MPS is not fully in use: {attached} processes are attached, {processes} were"
            " expected. Processes must run as the user who started the daemon, and a container"
            " needs the host's IPC namespace (--ipc=host)"
        )

    def close(self) -> None:
        """Stop our own daemon. Blocking, up to seconds. Idempotent."""
        if not self.own:
            return
        self.own = False
        with contextlib.suppress(InvalidOptions):
            _ask("quit", self.directory)
        shutil.rmtree(self.directory, ignore_errors=True)


@contextlib.contextmanager
def mps() -> Iterator[Mps]:
    """A daemon for this process and those that it starts. It ends with the block if it was started
    here.

    To be entered before anything uses CUDA. Blocking, up to seconds. Raises InvalidOptions if MPS
    cannot be used: no daemon program, or a daemon that does not start.
    """
    before = {name: os.environ.get(name) for name in (PIPE_VARIABLE, LOG_VARIABLE)}
    daemon = _find_or_start()
    try:
        yield daemon
    finally:
        daemon.close()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _find_or_start() -> Mps:
    if shutil.which(CONTROL) is None:
        raise InvalidOptions(
            f"--mps needs {CONTROL}, which comes with NVIDIA's driver for Linux; it is not on the"
            " PATH"
        )
    if named := os.environ.get(PIPE_VARIABLE):
        try:
            _ask("get_server_list", Path(named))
        except InvalidOptions as error:
            raise InvalidOptions(
                f"{PIPE_VARIABLE} is {named}, but no MPS daemon answers there ({error.message});"
                " start it, or unset the variable so that one is started"
            ) from error
        return Mps(Path(named), own=False)
    directory = Path(tempfile.mkdtemp(prefix="orpheus-mps-", dir=_PARENT))
    os.environ[PIPE_VARIABLE] = os.environ[LOG_VARIABLE] = str(directory)
    try:
        _run([CONTROL, "-d"], "", directory)
        _ask("get_server_list", directory)
    except InvalidOptions as error:
        for name in (PIPE_VARIABLE, LOG_VARIABLE):
            del os.environ[name]
        reason = _last_line(directory / "control.log") or error.message
        shutil.rmtree(directory, ignore_errors=True)
        raise InvalidOptions(f"the MPS daemon does not start: {reason}") from error
    return Mps(directory, own=True)


def _ask(command: str, directory: Path) -> str:
    """The daemon's answer."""
    return _run([CONTROL], command + "\n", directory)


def _run(command: list[str], text: str, directory: Path) -> str:
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False,
            env=os.environ | {PIPE_VARIABLE: str(directory), LOG_VARIABLE: str(directory)},
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise InvalidOptions(f"{CONTROL} gives no answer in {_TIMEOUT_S:.0f} s") from error
    except OSError as error:
        raise InvalidOptions(f"{CONTROL} cannot be run: {error}") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip() or f"exit status {done.returncode}"
        raise InvalidOptions(f"{CONTROL} fails: {said}")
    return done.stdout


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split() if word.isdigit()]


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text("utf-8", "replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1] if lines else ""
