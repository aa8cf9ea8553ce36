"""Reads the answers of completions servers: server-sent events, their choices, ids as numbers or as
text."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any, NamedTuple

import msgspec

from orpheus_plugin.tokens.vocabulary import CODES, SLOTS, Vocabulary

_WORDS = 60
"""Characters of a server's text that an error message quotes."""
_PROSE_CHARS = 400
_PROSE_IDS = 64
"""Characters of text, and ids, without one audio id, from which on the server does not run an
Orpheus model. Orpheus begins with audio; a server that repeats the prompt stays below both."""


class EventReader:
    """The `data` of each event from a byte stream cut anywhere (html.spec.whatwg.org, "Server-sent
    events").

    Lines may end in LF or CRLF. Comments and other fields are skipped.
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


class TokenText:
    """Ids from a stream of text in which each id is written `<custom_token_N>`, wherever the text
    is cut.

    Attributes:
        other: number of characters that were not part of an id, without white space at the ends of
            each piece.
        words: the first of these characters.
    """

    _TOKEN = re.compile(r"<custom_token_(\d{1,6})>")
    _LONGEST = len("<custom_token_000000>")

    def __init__(self, base: int) -> None:
        """base: id of `<custom_token_0>`."""
        self._base = base
        self._rest = ""
        self.other = 0
        self.words = ""

    def push(self, text: str) -> list[int]:
        """The ids that are complete with this piece."""
        text = self._rest + text
        ids: list[int] = []
        end = 0
        for match in self._TOKEN.finditer(text):
            ids.append(self._base + int(match[1]))
            self._skip(text[end : match.start()])
            end = match.end()
        begun = text.rfind("<", end)
        if begun < 0 or len(text) - begun >= self._LONGEST:
            begun = len(text)
        self._skip(text[end:begun])
        self._rest = text[begun:]
        return ids

    def _skip(self, text: str) -> None:
        self.other += len(text.strip())
        if len(self.words) < _WORDS:
            self.words = (self.words + text).lstrip()[:_WORDS]


class _Said(msgspec.Struct):
    text: str | None = None
    content: str | None = None


class Choice(_Said):
    """A completion's choice. Servers that apply a chat template may answer in the form of a
    chat."""

    token_ids: list[int] | None = None
    finish_reason: str | None = None
    delta: _Said | None = None
    message: _Said | None = None

    @property
    def words(self) -> str:
        """Its text, in whichever form."""
        parts = (self, self.delta, self.message)
        return next((said for one in parts if one and (said := one.text or one.content)), "")


class _Event(msgspec.Struct):
    choices: list[Choice] | None = None
    error: Any = None


_events = msgspec.json.Decoder(_Event)


class ChoiceReader:
    """The ids of one answer from its choices, in whichever form the server gives them.

    Attributes:
        audio: number of audio ids so far.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._text = TokenText(vocabulary.first_custom_token)
        self._other_ids: list[int] = []
        self.audio = 0

    def push(self, choice: Choice) -> list[int]:
        """The ids of a choice. Text that is not an id is dropped."""
        found = self._text.push(choice.words)
        ids = found if choice.token_ids is None else choice.token_ids
        marks, audio = self._vocabulary.first_custom_token, self._vocabulary.audio_base
        for token_id in ids:
            if 0 <= token_id - audio < SLOTS * CODES:
                self.audio += 1
            elif not marks <= token_id < audio and len(self._other_ids) < _PROSE_IDS:
                self._other_ids.append(token_id)
        return ids

    @property
    def is_prose(self) -> bool:
        """Whether the answer so far cannot come from an Orpheus model."""
        return not self.audio and (
            self._text.other >= _PROSE_CHARS or len(self._other_ids) >= _PROSE_IDS
        )

    @property
    def prose(self) -> str | None:
        """The content of an answer without audio, quoted for an error message; None if it has
        none."""
        if self.audio:
            return None
        if words := self._text.words.strip():
            return f"text such as {words!r}"
        if self._other_ids:
            return f"token ids such as {self._other_ids[:5]}, which are not audio"
        return None


class Failure(NamedTuple):
    """An error that a server sent as an event, with the HTTP status that would report it."""

    status: int
    message: str


def first_choice(event: str) -> Choice | Failure:
    """The first choice of an event; an empty one for events that only carry usage.

    Raises ValueError for what is not a completion. Costs 0.5 us for an event of three ids.
    """
    value = _events.decode(event)
    if value.error is not None:
        status = value.error.get("code") if isinstance(value.error, dict) else None
        return Failure(status if isinstance(status, int) else 500, error_message(event.encode()))
    return value.choices[0] if value.choices else Choice()


def first_model(body: bytes) -> str | None:
    """The first name in an answer of `/v1/models`; None for another answer."""
    try:
        name = json.loads(body)["data"][0]["id"]
    except (ValueError, LookupError, TypeError):
        return None
    return str(name)


def error_message(body: bytes) -> str:
    """A server's error message: OpenAI's {"error": {"message": ...}}, or the first 500 characters
    of another body."""
    text = body.decode("utf-8", "replace")
    with contextlib.suppress(ValueError, AttributeError):
        value = json.loads(text)
        error = value.get("error", value)
        message = error.get("message") or error.get("detail") if isinstance(error, dict) else error
        if message:
            return str(message)[:500]
    return text.strip()[:500] or "no reason given"
