"""A stand-in for nvidia-cuda-mps-control, which needs a GPU: the commands that are used, with the
daemon's answers."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

PROGRAM = """#!{python}
import os, pathlib, sys
pipe = pathlib.Path(os.environ["CUDA_MPS_PIPE_DIRECTORY"])
log = pathlib.Path(os.environ["CUDA_MPS_LOG_DIRECTORY"])
if "-d" in sys.argv:
    if {broken!r}:
        (log / "control.log").write_text("Starting control daemon\\n" + {broken!r} + "\\n")
        sys.exit(1)
    (pipe / "control").touch()
    pathlib.Path(__file__).with_name("directory").write_text(str(pipe))
    sys.exit(0)
if not (pipe / "control").exists():
    sys.exit("Cannot find MPS control daemon process")
for line in sys.stdin:
    command = line.split()
    if command == ["get_server_list"]:
        print(4711)
    elif command == ["get_client_list", "4711"]:
        for pid in {clients!r}:
            print(pid)
    elif command == ["quit"]:
        (pipe / "control").unlink()
    else:
        sys.exit("unknown command")
"""


def write_control(folder: Path, *, clients: tuple[int, ...] = (), broken: str = "") -> Path:
    """Write the program into a folder to be put on the PATH; started, it leaves its directory's
    path in `directory` there.

    broken: why the daemon does not start.
    """
    path = folder / "nvidia-cuda-mps-control"
    path.write_text(PROGRAM.format(python=sys.executable, clients=clients, broken=broken))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def on_path(folder: Path) -> str:
    return f"{folder}{os.pathsep}{os.environ['PATH']}"
