"""Web and mail addresses as they are read: "example dot com slash docs"."""

from __future__ import annotations

import re

from orpheus_plugin.text.languages import Language
from orpheus_plugin.text.languages.base import word_set

_SCHEME = re.compile(r"(?:(?:https?|ftp)://|www\.)", re.IGNORECASE)
_EDGES = re.compile(r"[\"'“‘(\[<*_]*")
_TRAIL = ".,;:!?)]>\"'”’*_"
_HOST = re.compile(r"[a-z\d](?:[a-z\d-]*)(?:\.[a-z\d][a-z\d-]*)+", re.IGNORECASE)
_MAILBOX = re.compile(r"(?:mailto:)?([\w.+-]+)@([\w-]+(?:\.[\w-]+)+)", re.IGNORECASE)
_ENDINGS = word_set(
    "com org net io ai dev app co edu gov info me tv uk de fr es it eu us ca in cn jp kr "
    "txt md py js ts json csv pdf html yaml zip png jpg"
)
_FILE_ENDING = re.compile(r"([\"'“(]?)\.([a-z]{2,4})([\"'”),.;:!?]*)", re.IGNORECASE)
_LONGEST = 120
"""The longest address without a scheme that is spoken, and the longest text that counts as an
address."""
_MOST_WORDS = 64
"""An address is spoken up to here: nobody listens to a longer one."""


def say_addresses(text: str, language: Language) -> str:
    """A word with its address as it is read; the same word if it has no address.

    Cost: one anchored match for each kind of address.
    """
    if "." not in text and "://" not in text:
        return text
    if file := _FILE_ENDING.fullmatch(text):  # ".com", ".js files"
        if file[2].lower() in _ENDINGS:
            return f"{file[1]}{language.address[0]} {file[2].lower()}{file[3]}"
        return text
    edge = _EDGES.match(text)
    start = edge.end() if edge else 0
    body = text[start:].rstrip(_TRAIL)
    tail = text[start + len(body) :]
    said = None
    if _SCHEME.match(body):
        said = _address(body, language)
    elif len(body) <= _LONGEST:
        if mailbox := _MAILBOX.fullmatch(body):
            said = _address(f"{mailbox[1]}@{mailbox[2]}", language)
        else:
            host, _, _ = body.partition("/")
            name, _, ending = host.rpartition(".")
            if (
                ending.lower() in _ENDINGS
                and any(c.isalpha() for c in name)
                and _HOST.fullmatch(host)
            ):
                said = _address(body, language)
    return text if said is None else f"{text[:start]}{said}{tail}"


def _address(url: str, language: Language) -> str:
    dot, slash, at, dash, underscore = language.address
    url = re.sub(r"^(?:\w+://)?(?:www\.)?", "", url, flags=re.IGNORECASE)
    url = re.split(r"[?#]", url, maxsplit=1)[0].rstrip("/")
    host, _, path = url.partition("/")
    if len(path) > 32 or re.search(r"\d{3}|%", path):
        path = ""  # an identifier is not spoken
    full = f"{host}/{path}" if path else host
    for mark, word in ((".", dot), ("/", slash), ("@", at), ("-", dash), ("_", underscore)):
        full = full.replace(mark, f" {word} ")
    return " ".join(full.split()[:_MOST_WORDS])
