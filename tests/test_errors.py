"""The one table of errors: code, kind, HTTP status."""

from __future__ import annotations

import ast
import builtins
import re
from pathlib import Path

from orpheus_plugin import errors
from orpheus_plugin.errors import ERRORS_BY_CODE, ErrorKind

EXCEPTIONS = {
    name
    for name, kind in {**vars(builtins), **vars(errors)}.items()
    if isinstance(kind, type) and issubclass(kind, BaseException)
}

STATUSES = {
    ErrorKind.REQUEST: {400, 408, 409},
    ErrorKind.SETUP: {404, 500},
    ErrorKind.KEY: {401},
    ErrorKind.BUSY: {429, 503},
    ErrorKind.CONNECTION: {503},
    ErrorKind.ENGINE: {500, 503},
}


def test_every_error_has_a_code_of_its_own_and_is_in_the_hierarchy() -> None:
    assert errors.__doc__
    hierarchy = re.findall(r"^ +(?:- )?(\w+)$", errors.__doc__, re.MULTILINE)
    assert {error.__name__ for error in ERRORS_BY_CODE.values()} == set(hierarchy)


def test_every_exception_of_the_package_is_in_errors() -> None:
    package = Path(errors.__file__).parent
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef) and path != Path(errors.__file__):
                bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
                raised = {base for base in bases if base in EXCEPTIONS}
                assert not raised, f"{path.relative_to(package)}: {node.name}"


def test_a_status_says_what_the_kind_says() -> None:
    for error in ERRORS_BY_CODE.values():
        assert error.http_status in STATUSES[error.kind], error
        if error.http_status < 500 and error.http_status not in (408, 429):
            assert not error.retryable, error
