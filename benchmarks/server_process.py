"""A server process for the benchmarks: start, measurement, end."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

READY_S = 600.0
SERVE = ("-m", "orpheus_plugin", "serve")


@dataclass
class ServerProcess:
    """A running `orpheus-tts serve`."""

    url: str
    process: subprocess.Popen[str]
    log: Path
    lines: list[str] = field(default_factory=list)

    @property
    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz"):
                return True
        except OSError:  # 503 is one, too
            return False

    @property
    def rss_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text("utf-8")
        kilobytes = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(kilobytes.split()[1]) / 1024

    @property
    def open_files(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    @property
    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))


def cpu_s(pid: int) -> float:
    """Processor seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def machine_cpu_s() -> float:
    """Processor seconds that everything on this machine has used."""
    names = ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"]
    first = Path("/proc/stat").read_text("utf-8").partition("\n")[0].split()[1:9]
    used = sum(
        int(ticks)
        for name, ticks in zip(names, first, strict=True)
        if name not in ("idle", "iowait")
    )
    return used / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def server_process(*arguments: str, program: Sequence[str] = SERVE) -> Iterator[ServerProcess]:
    """`orpheus-tts serve ARGUMENTS` on a free port, ready to speak. `program` may be a Python
    command that does the same."""
    with tempfile.TemporaryDirectory(prefix="orpheus-bench-") as folder:
        log = Path(folder) / "server.log"
        process = subprocess.Popen(
            [sys.executable, *program, "--port", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
            env={**os.environ, "ORPHEUS_STATE_DIR": folder, "ORPHEUS_API_KEY": ""},
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if "listening on" not in line:
                raise SystemExit(f"the server did not start:\n{log.read_text('utf-8')}")
            server = ServerProcess(line.split()[-1], process, log)
            threading.Thread(target=process.stdout.read, daemon=True).start()
            deadline = time.monotonic() + READY_S
            while not server.ready:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"the server is not ready:\n{log.read_text('utf-8')}")
                time.sleep(0.1)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


__all__ = ["ServerProcess", "cpu_s", "machine_cpu_s", "server_process"]
