"""The JSON files of a checkpoint. They are not trusted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from orpheus_plugin.errors import BadCheckpoint

LARGEST = 64 * 1024 * 1024
"""Bytes. The index of a large model has some 100 KB."""


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises BadCheckpoint for anything else, and for a missing file."""
    try:
        if path.stat().st_size > LARGEST:
            raise BadCheckpoint(f"{path}: larger than {LARGEST} bytes")
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, BadCheckpoint):
            raise
        raise BadCheckpoint(f"{path}: cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise BadCheckpoint(f"{path}: not a JSON object")
    return value
