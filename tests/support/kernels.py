"""Compiled loops, called from Python."""

from __future__ import annotations

from typing import Any

from orpheus_plugin.kernels.compiled import compiled_step


def from_python(function: Any) -> Any:
    """The package's loops have no way in from Python, except its steps."""

    def call(*args: Any) -> Any:
        return function(*args)

    return compiled_step(call)
