"""The thoughts of a reasoning model, `<think>...</think>`, are not spoken.

Servers that know the model send them apart; others, such as Ollama without a reasoning parser,
stream them with the answer.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_EDGE = re.compile(r"<(/?)think(?:ing)?>", re.IGNORECASE)
_EDGES = ("<think>", "</think>", "<thinking>", "</thinking>")


class Reading(NamedTuple):
    """The state of a stream of text.

    Attributes:
        held: its last characters, which may be the beginning of a tag.
        thinking: whether it is inside a thought.
    """

    held: str = ""
    thinking: bool = False

    @property
    def pending(self) -> str:
        """Text that is held, if no more comes."""
        return "" if self.thinking else self.held


def without_thoughts(delta: str, reading: Reading) -> tuple[str, Reading]:
    """The next piece of text, split anywhere, without thoughts, and the state after it."""
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
