"""Any text through the text front end, 10,000 cases of it: ``python benchmarks/text_fuzz.py``.

The properties are those of tests/text/test_cutter.py: however a text is split, the same utterances
come out, none too long, each speakable, and no word is lost. The longest single call (one utterance
taken, of a text of up to 6,144 characters that repeats the case's) is reported in CPU milliseconds.
"""

from __future__ import annotations

import argparse
import gc
import logging
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from hypothesis import HealthCheck, given, seed, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from benchmarks.report import add_save_option, save  # noqa: E402
from benchmarks.text import CHARS  # noqa: E402
from orpheus_plugin.text.cutter import UtteranceCutter  # noqa: E402
from tests.text import test_cutter  # noqa: E402

calls: list[tuple[float, str]] = []
"""The longest calls, in seconds, and what their text repeats."""


def take_all(text: str) -> None:
    """A case's text over and over, up to what a turn takes."""
    if not text:
        return
    gc.collect()  # garbage of hypothesis is not part of the cost
    gc.disable()
    cutter = UtteranceCutter()
    cutter.add((text * (CHARS // len(text) + 1))[:CHARS])
    cutter.end_piece()
    while True:
        before = time.thread_time()
        utterance = cutter.take()
        calls.append((time.thread_time() - before, text[:60]))
        if utterance is None and not cutter.unread:
            break
    gc.enable()
    calls.sort(reverse=True)
    del calls[5:]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    add_save_option(parser)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    texts = test_cutter.TEXTS
    properties: dict[str, tuple[Any, dict[str, Any]]] = {
        "any split gives the same utterances": (
            test_cutter.test_any_split_gives_the_same_utterances,
            {"text": texts, "data": st.data()},
        ),
        "short, speakable, nothing lost": (
            test_cutter.test_every_utterance_is_short_and_speakable_and_nothing_written_is_lost,
            {"text": texts, "size": st.integers(1, 30)},
        ),
        "early cuts lose no word": (
            test_cutter.test_early_cuts_change_where_utterances_end_but_no_word,
            {"text": texts},
        ),
    }
    cases: Counter[str] = Counter()
    failures: dict[str, str] = {}

    def run(name: str, check: Any, strategies: dict[str, Any], number: int) -> None:
        def case(**values: Any) -> None:
            cases[name] += 1
            check(**values)

        wanted = settings(
            max_examples=number,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        try:
            wanted(seed(args.seed)(given(**strategies)(case)))()
        except Exception as error:
            failures[name] = f"{type(error).__name__}: {error}"[:500]
        print(f"{name}: {cases[name]} cases, {failures.get(name, 'none failed')}", flush=True)

    for name, (test, strategies) in properties.items():
        run(name, test.hypothesis.inner_test, strategies, args.cases * 3 // 10)
    run("taken one by one", take_all, {"text": texts}, args.cases // 10)
    figures = {
        "cases": dict(cases),
        "failures": failures,
        "longest_calls": [{"ms": 1e3 * seconds, "text": text} for seconds, text in calls],
    }
    print(figures["longest_calls"])
    save("text_fuzz", figures)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
