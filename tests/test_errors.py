"""The one table of errors: code, kind, HTTP status."""

from __future__ import annotations

from orpheus_plugin import errors
from orpheus_plugin.errors import ERRORS_BY_CODE, ErrorKind, OrpheusError

STATUSES = {
    ErrorKind.REQUEST: {400, 408, 409},
    ErrorKind.SETUP: {404, 500},
    ErrorKind.KEY: {401},
    ErrorKind.BUSY: {429, 503},
    ErrorKind.CONNECTION: {503},
    ErrorKind.ENGINE: {500, 503},
}


def test_every_error_travels_by_a_code_of_its_own() -> None:
    kinds = {
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, OrpheusError)
    }
    assert set(ERRORS_BY_CODE.values()) == kinds
    assert len(ERRORS_BY_CODE) == len(kinds)


def test_a_status_says_what_the_kind_says() -> None:
    for error in ERRORS_BY_CODE.values():
        assert error.http_status in STATUSES[error.kind], error
        if error.http_status < 500 and error.http_status not in (408, 429):
            assert not error.retryable, error
