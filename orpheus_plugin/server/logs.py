"""One line per event: time, level, logger, message, then `key=value` with JSON values. No input can
forge a line."""

from __future__ import annotations

import json
import logging
import logging.handlers
from pathlib import Path

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class LineFormatter(logging.Formatter):
    """Escapes control characters. Only a traceback spans lines, and each of them is marked, because
    the text of an exception may come from a client."""

    def format(self, record: logging.LogRecord) -> str:
        parts = [
            self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            record.levelname,
            record.name,
            _escape(record.getMessage()),
        ]
        parts += [
            f"{key}={json.dumps(value, default=str)}"
            for key, value in vars(record).items()
            if key not in _STANDARD
        ]
        if record.exc_info:
            trace = self.formatException(record.exc_info).splitlines()
            parts.append("".join(f"\n  | {_escape(line)}" for line in trace))
        return " ".join(parts)


def _escape(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def set_up(*, level: str, file: Path | None) -> None:
    """Send this package's log to a file that is kept below 15 MB, or to standard error."""
    handler: logging.Handler
    if file is None:
        handler = logging.StreamHandler()
    else:
        file.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.handlers.RotatingFileHandler(
            file, maxBytes=5_000_000, backupCount=2, encoding="utf-8"
        )
    handler.setFormatter(LineFormatter())
    # With a full disk, log lines are lost, without a traceback for each; speech goes on.
    logging.raiseExceptions = False
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("orpheus_plugin").setLevel(level.upper())
