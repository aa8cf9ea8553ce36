"""The speech servers of this user on this machine: each has a record in the cache directory while
it runs.

A record has an address and, for a server that was started automatically, its key. So only the user
can read the directory and the files.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import stat
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import msgspec

from orpheus_plugin.folders import cache_folder, private

logger = logging.getLogger(__name__)

_RECORD_BYTES = 16 * 1024
"""A longer file is not a record."""

_PIDS = range(1, 2**31)
_URL = re.compile(r"(https?|unix)://\S{1,1000}")


@dataclass(frozen=True, slots=True)
class RunningServer:
    """Where a server listens.

    Attributes:
        url: http://host:port or unix:///path.
        model: the model as it was asked for.
        device: the device as it was asked for.
        pid: its process.
        api_key: the key that clients of this user send; None if it needs none or if its operator
            chose one.
    """

    url: str
    model: str
    device: str
    pid: int
    api_key: str | None = field(default=None, repr=False)


def state_dir() -> Path:
    """ORPHEUS_STATE_DIR, else the package's cache folder. Made if it is missing.

    Raises OSError if it cannot be made, PermissionError if it is not this user's alone.
    """
    chosen = os.environ.get("ORPHEUS_STATE_DIR")
    return private(Path(chosen) if chosen else cache_folder())


def own_file(name: str) -> Path:
    """A file in the state directory, to be written to. A link, or another user's file, in its place
    is removed."""
    path = state_dir() / name
    with contextlib.suppress(OSError):
        if not _is_own_file(path.lstat()):
            path.unlink()
    return path


def records() -> list[RunningServer]:
    """Servers whose process still runs, the newest first. They may not answer. What is not a record
    of this user is passed over."""
    found: list[tuple[float, RunningServer]] = []
    try:
        paths = list(state_dir().glob("server-*.json"))
    except OSError:  # `find_or_start` says why
        return []
    for path in paths:
        try:
            facts = path.lstat()
            if not _is_own_file(facts) or facts.st_size > _RECORD_BYTES:
                continue
            server = msgspec.json.decode(path.read_bytes(), type=RunningServer)
            if server.pid not in _PIDS or not _URL.fullmatch(server.url):
                continue
            if _alive(server.pid):
                found.append((facts.st_mtime, server))
            else:
                path.unlink(missing_ok=True)
        except (OSError, ValueError, RecursionError):
            continue
    return [server for _, server in sorted(found, key=lambda item: item[0], reverse=True)]


def _is_own_file(facts: os.stat_result) -> bool:
    own = not hasattr(os, "getuid") or facts.st_uid == os.getuid()
    return own and stat.S_ISREG(facts.st_mode)


@contextlib.contextmanager
def recorded(server: RunningServer) -> Iterator[None]:
    """Keep the record while the block runs. If it cannot be written, clients do not find the
    server; it serves all the same."""
    path: Path | None = None
    try:
        path = state_dir() / f"server-{server.pid}.json"
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".record-")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(asdict(server), file)
        Path(temporary).replace(path)
    except OSError as error:
        logger.warning("other processes will not find this server: %s", error)
        path = None
    try:
        yield
    finally:
        if path is not None:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    # As psutil.pid_exists, without its import of 60 ms.
    if sys.platform == "win32":
        return True  # os.kill would end it; `autostart` asks the server anyway
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return False  # another user's process has got the number
    return True
