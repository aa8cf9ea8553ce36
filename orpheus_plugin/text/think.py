"""What a reasoning model writes before it answers, `<think>...</think>`, is not for the listener's
ears.

Servers that know the model keep it apart; others, such as Ollama without a reasoning parser, stream
it with the answer.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_EDGE = re.compile(r"<(/?)think(?:ing)?>", re.IGNORECASE)
_EDGES = ("<think>", "</think>", "<thinking>", "</thinking>")


class Reading(NamedTuple):
    """Where a stream of text stands.

    Attributes:
        held: its last characters, which may be the beginning of a tag.
        thinking: whether it is within a thought.
    """

    held: str = ""
    thinking: bool = False

    @property
    def pending(self) -> str:
        """What is text after all if no more comes."""
        return "" if self.thinking else self.held


def without_thoughts(delta: str, reading: Reading) -> tuple[str, Reading]:
    """The next piece of text, split anywhere, without what is thought in it, and where the text
    stands then."""
    text, thinking = reading.held + delta, reading.thinking
    said, at = [], 0
    for edge in _EDGE.finditer(text):
        if not thinking:
            said.append(text[at : edge.start()])
        thinking = not edge[1]
        at = edge.end()
    rest = text[at:]
    last = rest.rfind("<")
    tail = rest[last:] if last >= 0 else ""
    held = tail if any(edge.startswith(tail.lower()) for edge in _EDGES) else ""
    if not thinking:
        said.append(rest[: len(rest) - len(held)])
    return "".join(said), Reading(held, thinking)
