"""Folders for keys and for cached code belong to this user alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from orpheus_plugin.folders import private

pytestmark = pytest.mark.skipif(not hasattr(os, "getuid"), reason="the system has no user ids")


def test_a_folder_is_made_for_this_user_only(tmp_path: Path) -> None:
    folder = tmp_path / "one" / "two"
    assert private(folder) == folder
    folder.chmod(0o777)
    private(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_that_another_user_could_change_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o777)
    monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(PermissionError, match="ORPHEUS_STATE_DIR"):
        private(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o777
