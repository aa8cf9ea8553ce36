"""Imports point one way, from adapters, server and command line down to text and errors, without a
cycle; files are short.

Imports inside functions and under TYPE_CHECKING count, too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import orpheus_plugin

ROOT = Path(orpheus_plugin.__file__).parent
BESIDE = ("agent_examples", "benchmarks", "training", "tests/support")
LONGEST = 350
"""Lines of a file: a few screens."""

LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "version", "sampling"),
    ("folders", "json_files"),
    ("worker_thread", "tensors", "kernels"),
    ("text",),
    ("events", "options"),
    ("turn",),
    ("speech_engine",),
    ("protocol", "models"),
    ("tokens", "codec"),
    ("engine",),
    ("remote",),
    ("reply", "evaluation"),
    ("server", "pipecat", "livekit"),
    ("cli",),
    ("__init__", "__main__"),
)
"""A package imports from itself and from those in earlier lines, never from its own line or a later
one."""


def modules() -> dict[str, Path]:
    """Every module of the package by its name below it."""
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """Modules of the package that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [
                name if name.removeprefix("orpheus_plugin.") in known else node.module
                for name in inside
            ]
        for name in names:
            package, _, below = name.partition(".")
            if package == "orpheus_plugin":
                yield below or "__init__"


@pytest.fixture(scope="module")
def edges() -> set[tuple[str, str]]:
    known = modules()
    found = {(name, target) for name, path in known.items() for target in imports(path, known)}
    return {(name, target) for name, target in found if name != target}


def test_every_package_has_a_place_in_the_order() -> None:
    placed = {room for layer in LAYERS for room in layer}
    assert {name.split(".")[0] for name in modules()} <= placed, "give a new room its place here"


def test_packages_import_only_from_below(edges: set[tuple[str, str]]) -> None:
    height = {room: number for number, layer in enumerate(LAYERS) for room in layer}
    wrong = []
    for name, target in sorted(edges):
        room, other = name.split(".")[0], target.split(".")[0]
        if room != other and height[other] >= height[room]:
            wrong.append(f"{name} imports {target}")
    assert not wrong


def test_no_imports_form_a_cycle(edges: set[tuple[str, str]]) -> None:
    graph: dict[str, set[str]] = {}
    for name, target in edges:
        graph.setdefault(name, set()).add(target)
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules


def test_a_file_fits_on_a_few_screens() -> None:
    folders = [ROOT, *(ROOT.parent / name for name in BESIDE)]
    lengths = {
        path.relative_to(ROOT.parent).as_posix(): len(path.read_bytes().splitlines())
        for folder in folders
        for path in folder.rglob("*.py")
    }
    assert {name: n for name, n in lengths.items() if n > LONGEST} == {}
