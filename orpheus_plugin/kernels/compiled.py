"""Compilation of loops: numba's options, and the folder in which compiled code is cached."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba
from llvmlite import binding
from numba.core.caching import FunctionCache

from orpheus_plugin.folders import cache_folder, private

logger = logging.getLogger(__name__)

Function = TypeVar("Function", bound=Callable[..., Any])

ROOMS = ("kernels", "tokens/cpu", "codec/cpu")
"""Folders of the package with compiled loops. A change in any of their files makes all of the
cached code stale; numba itself checks only the file of the outermost function."""


def _folder() -> Path | None:
    """The cache of compiled code for these sources, their path, this numba and this kind of CPU.
    None if no folder can be written to."""
    package = Path(__file__).parents[1]
    key = hashlib.sha256(repr((package, numba.__version__, sys.version_info[:2])).encode())
    key.update(repr(_cpu()).encode())
    for room in ROOMS:
        for file in sorted((package / room).glob("*.py")):
            key.update(file.read_bytes())
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    # A container's user may have no home that can be written to.
    temporary = Path(tempfile.gettempdir()) / f"orpheus_plugin-{_user()}"
    for root in (Path(chosen) if chosen else cache_folder(), temporary):
        folder = root / "compiled" / key.hexdigest()[:16]
        try:
            if str(root) != chosen:
                private(root)  # cached code is executed
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            continue
    return None


def _cpu() -> tuple[str, str]:
    """Name and features ("+avx2,-avx512f,...") of the CPU that code is compiled for; numba's
    settings may name another CPU."""
    name = numba.config.CPU_NAME or binding.get_host_cpu_name()
    features = numba.config.CPU_FEATURES
    return name, binding.get_host_cpu_features().flatten() if features is None else features


def cpu_has(feature: str) -> bool:
    """Whether compiled code may use an instruction set, by LLVM's name for it ("avx512f")."""
    return f"+{feature}" in _cpu()[1].split(",")


def _user() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0


FOLDER = _folder()


class _Cache(FunctionCache):  # type: ignore[misc]  # numba has no types
    """numba's, but never the reason why nothing runs: what cannot be read is compiled again, what
    cannot be written (a full disk) is compiled by the next process, too."""

    told = False

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # whatever pickle makes of a file that was cut short
            logger.warning("compiled code in %s cannot be read: %r", self.cache_path, error)
            with contextlib.suppress(OSError):
                self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError as error:
            self.disable()
            level = logging.DEBUG if _Cache.told else logging.WARNING  # there are many functions
            logger.log(level, "compiled code cannot be kept in %s: %s", self.cache_path, error)
            _Cache.told = True


def compiled(function: Function) -> Function:
    """Compile loops that other compiled loops call. They run without the interpreter's lock.

    Multiplications and additions may be fused; sums keep their order, so that vector code and the
    scalar code at a row's end give the same bits.
    """
    return _kept(function, {"contract", "nsz"})


def compiled_sum(function: Function) -> Function:
    """As `compiled`, for loops that add up: the order of the additions may change, so that they
    become vector code."""
    return _kept(function, {"contract", "nsz", "reassoc"})


def compiled_step(function: Function) -> Function:
    """As `compiled`, for what Python calls. The way in from Python is left out of the others: it
    takes a fifth of the time in which they are compiled."""
    return _kept(function, {"contract", "nsz"}, from_python=True)


def _kept(function: Function, fastmath: set[str], *, from_python: bool = False) -> Function:
    made = numba.njit(
        nogil=True,
        error_model="numpy",
        fastmath=fastmath,
        no_cpython_wrapper=not from_python,
        no_cfunc_wrapper=True,
    )(function)
    if FOLDER is not None:
        # numba has one cache folder for the whole process; the application may have set it.
        own, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(FOLDER)
        try:
            made._cache = _Cache(made.py_func)  # as its enable_caching does
        finally:
            numba.config.CACHE_DIR = own
    return made  # type: ignore[no-any-return]
