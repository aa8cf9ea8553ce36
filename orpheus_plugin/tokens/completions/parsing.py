"""Server-sent events, as far as streamed completions use them."""

from __future__ import annotations


class EventReader:
    """The `data` of each event from a byte stream cut anywhere (html.spec.whatwg.org, "Server-sent events").

    Lines may end in LF or CRLF; comments and other fields are left out.
    """

    def __init__(self) -> None:
        self._buffer = b""
        self._data: list[str] = []

    def push(self, data: bytes) -> list[str]:
        """The events that are complete with these bytes."""
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        events: list[str] = []
        for raw in lines:
            line = raw.removesuffix(b"\r").decode("utf-8", "replace")
            if line.startswith("data:"):
                self._data.append(line[5:].removeprefix(" "))
            elif not line and self._data:
                events.append("\n".join(self._data))
                self._data.clear()
        return events
