"""The speech servers of this user on this machine: each has a record in the cache directory while
it runs.

A record has an address and, for a server that was started automatically, its key. So only the user
can read the directory and the files.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from orpheus_plugin.folders import cache_folder, private


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


def records() -> list[RunningServer]:
    """Servers whose process still runs, the newest first. They may not answer."""
    found: list[tuple[float, RunningServer]] = []
    for path in state_dir().glob("server-*.json"):
        try:
            server = RunningServer(**json.loads(path.read_text("utf-8")))
            if _alive(server.pid):
                found.append((path.stat().st_mtime, server))
            else:
                path.unlink(missing_ok=True)
        except (OSError, ValueError, TypeError):
            continue
    return [server for _, server in sorted(found, key=lambda item: item[0], reverse=True)]


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
    except OSError:
        path = None
    try:
        yield
    finally:
        if path is not None:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    # As psutil.pid_exists, which is compiled code that the client needs for nothing else.
    if sys.platform == "win32":
        return True  # os.kill would end it; `autostart` asks the server anyway
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
