"""The package's cache folder, and folders that only this user can change."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """The package's folder in the platform's cache directory. It may not exist yet."""
    return platformdirs.user_cache_path("orpheus_plugin", appauthor=False)


def private(folder: Path) -> Path:
    """The folder, made if it is missing. If this user owns it, other users lose all access to it.

    Raises PermissionError if another user but root owns it, or if other users can write to it:
    its files could be theirs.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not hasattr(os, "getuid"):  # Windows: the user's cache directory is closed to others
        return folder
    owner, mine = folder.stat().st_uid, os.getuid()
    if owner == mine:
        folder.chmod(0o700)
    elif owner != 0 or folder.stat().st_mode & 0o022:
        raise PermissionError(
            f"{folder} belongs to another user, or others can write to it; remove it, or choose"
            " another folder with ORPHEUS_STATE_DIR"
        )
    return folder
