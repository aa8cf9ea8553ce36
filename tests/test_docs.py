"""The snippets of README and docs run. Links have a target, and the names on the architecture page
are in the files it links to."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = [
    pytest.param(match[1], id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, match in enumerate(BLOCK.finditer(page.read_text("utf-8")), 1)
]


@pytest.mark.parametrize("code", BLOCKS)
def test_a_snippet_runs(code: str, tmp_path: Path) -> None:
    """As it stands, or as the body of a coroutine if it awaits."""
    if "asyncio.run(" not in code:
        code = (
            "import asyncio\nasync def main() -> None:\n"
            + textwrap.indent(code, "    ")
            + "\nasyncio.run(main())\n"
        )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, timeout=240)


def test_links_between_pages_have_a_target() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)}: {target}"


def test_the_architecture_links_to_files_that_define_the_names() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    links = re.findall(r"\[`([\w.]+)`\]\(\.\./orpheus_plugin/([\w/]+\.py)\)", page)
    assert len(links) > 10
    for name, file in links:
        body = ast.parse((ROOT / "orpheus_plugin" / file).read_text("utf-8")).body
        for part in name.split("."):
            inner = [node for node in body if getattr(node, "name", None) == part]
            assert inner, f"{file} has no {name}"
            body = getattr(inner[0], "body", [])
    folders = {path.name for path in (ROOT / "orpheus_plugin").iterdir() if path.is_dir()}
    table = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    assert folders - {"__pycache__"} == set(re.findall(r"`(\w+)/`", "".join(table)))
