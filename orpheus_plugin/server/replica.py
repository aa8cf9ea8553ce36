"""The process of one replica: a server that its parent configures on standard input, and that ends
with its parent."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading

from orpheus_plugin.server.process import serve


def main() -> int:
    """Read the configuration and the cores, pickled, and serve; the exit code."""
    config, cores = pickle.load(sys.stdin.buffer)
    if cores:
        os.sched_setaffinity(0, cores)
    threading.Thread(target=_follow_parent, name="orpheus-parent", daemon=True).start()
    return serve(config)


def _follow_parent() -> None:
    """End with the parent, which keeps standard input open while it runs."""
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
