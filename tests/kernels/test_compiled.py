"""Compiled code is kept for the next process, and runs where it cannot be."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from orpheus_plugin.kernels import compiled as kernels


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(kernels, "FOLDER", tmp_path / "kept")
    (tmp_path / "kept").mkdir()
    return tmp_path / "kept"


def made() -> Any:
    """As a process that has just started has it."""

    def doubled(number: int) -> int:
        return 2 * number

    return kernels.compiled_step(doubled)


def test_what_one_process_compiled_the_next_one_loads(folder: Path) -> None:
    assert made()(3) == 6
    again = made()
    assert again(3) == 6
    assert sum(again.stats.cache_hits.values()) == 1


def test_what_cannot_be_written_is_compiled_all_the_same(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels._Cache, "told", False)
    function = made()
    shutil.rmtree(folder)
    folder.write_text("in the way")  # the error of a full disk is of the same kind
    assert function(3) == 6
    assert "cannot be kept" in caplog.text


@pytest.mark.parametrize("files", ["*.nbi", "*.nbc"])
@pytest.mark.parametrize("left", [0, 10])
def test_what_was_cut_short_is_compiled_again_and_kept(
    folder: Path, files: str, left: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert made()(3) == 6
    for file in folder.rglob(files):
        file.write_bytes(file.read_bytes()[:left])
    assert made()(3) == 6
    assert "cannot be read" in caplog.text
    again = made()
    assert again(3) == 6
    assert sum(again.stats.cache_hits.values()) == 1
