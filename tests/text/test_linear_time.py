"""The front end's work grows with the text and no faster, whatever is in it; and one call does a
bounded part of it.

Counted are steps, which are the same on every machine: lines of Python run in
`orpheus_plugin.text`, and characters that its patterns are given to look at.
"""

from __future__ import annotations

import pkgutil
import re
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import orpheus_plugin.text as package
from benchmarks.text import HOSTILE, ORDINARY
from orpheus_plugin.text import UtteranceCutter

N = 640
LONGEST_CALL = 80_000
"""Steps: some 3 ms."""
SILENT_CALL = 25_000
"""Steps of a call that finds nothing to speak."""
MODULES = [
    import_module(found.name)
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
]


class Steps:
    """How many there were so far."""

    count = 0


class CountedPattern:
    """A compiled pattern that adds the characters it may look at to the steps: one for every
    eight."""

    def __init__(self, pattern: re.Pattern[str]) -> None:
        self._pattern = pattern
        self.pattern = pattern.pattern

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._pattern, name)

        def counted(*args: Any) -> Any:
            text = args[1] if name in ("sub", "subn") else args[0]
            start = args[1] if name not in ("sub", "subn") and len(args) > 1 else 0
            end = (
                min(len(text), args[2])
                if name not in ("sub", "subn") and len(args) > 2
                else len(text)
            )
            Steps.count += (end - start) // 8 + 1
            return method(*args)

        return counted


@pytest.fixture(scope="module", autouse=True)
def counted_patterns() -> Iterator[None]:
    replaced = []
    for module in MODULES:
        for name, value in list(vars(module).items()):
            if isinstance(value, re.Pattern):
                replaced.append((module, name, value))
                setattr(module, name, CountedPattern(value))
    assert len(replaced) > 50
    yield
    for module, name, value in replaced:
        setattr(module, name, value)


def count_lines(frame: FrameType, event: str, arg: object) -> Any:
    if f"{package.__name__.replace('.', '/')}/" not in frame.f_code.co_filename:
        return None
    Steps.count += event == "line"
    return count_lines


def steps(text: str, size: int) -> tuple[int, int]:
    """Steps for a text that arrives in pieces, and those of the longest call."""
    cutter = UtteranceCutter()
    Steps.count = longest = 0
    before = sys.gettrace()
    sys.settrace(count_lines)
    try:
        for start in [*range(0, len(text), size), None]:
            started = Steps.count
            if start is None:
                cutter.end_piece()
            else:
                cutter.add(text[start : start + size])
            longest = max(longest, Steps.count - started)
            while True:
                started = Steps.count
                utterance = cutter.take()
                longest = max(longest, Steps.count - started)
                if utterance is None and not cutter.unread:
                    break
    finally:
        sys.settrace(before)
    return Steps.count, longest


def of_length(sample: str, count: int) -> str:
    return (sample * (count // len(sample) + 1))[:count]


def check(sample: str, size: int) -> None:
    steps(of_length(sample, N), size)  # what is remembered of numbers and words is in place
    once, _ = steps(of_length(sample, N), size)
    twice, longest = steps(of_length(sample, 2 * N), size)
    assert twice <= 2.25 * once + 3_000
    assert twice <= 275 * 2 * N
    assert longest <= LONGEST_CALL


@pytest.mark.parametrize("name", [*ORDINARY, *HOSTILE])
def test_twice_the_text_takes_twice_the_work(name: str) -> None:
    check((ORDINARY | HOSTILE)[name], 10_000)


@pytest.mark.parametrize(
    "name", ["initials", "one-letter sentences", "spaces", "dots", "open tags"]
)
def test_small_pieces_take_linear_work(name: str) -> None:
    check((ORDINARY | HOSTILE)[name], 4)


@given(
    st.lists(
        st.sampled_from(
            ["a", "A", "1", "5", " ", "  ", "\n", ".", "!", ",", ":", "-", "/", "'", '"', "(", ")",
            "[", "]", "<", ">", "*", "_", "`", "#", "~",
             "^", "\\", "{", "}", "$", "€", "%", "°", "@", "www.", "http://", "Mr.", "U.S.", "e.g.",
             "IV", "pm", "kg", "x", "½", "。", "你", "😀", "́"]
        ),
        min_size=1,
        max_size=8,
    ).map("".join)
)  # fmt: skip
@settings(max_examples=12, deadline=None)
def test_any_repeated_characters_take_linear_work(sample: str) -> None:
    check(sample, 10_000)


@pytest.mark.parametrize("name", ["fences", "spaces", "dots", "stars", "ranges"])
def test_one_call_does_a_bounded_part_of_a_whole_turns_text(name: str) -> None:
    _, longest = steps(of_length(HOSTILE[name], 6_144), 10_000)
    assert longest <= LONGEST_CALL


@pytest.mark.parametrize("line", ["’’", '"', "()", "«»", "😀", "\x0c\U000b349b", "''", "- ", "…"])
def test_one_call_reads_few_lines_with_nothing_to_speak(line: str) -> None:
    _, longest = steps(of_length(f"{line}\n", 6_144), 10_000)
    assert longest <= SILENT_CALL
