"""What the text front end costs: `python benchmarks/text.py`, or `--against DIR` for another
checkout in the same run.

6,144 characters, the most that a turn takes, of ordinary text and of text made to be slow:
abbreviations and marks by the thousand, open brackets, dotted names, digits, spaces. Printed: CPU
milliseconds for all of it (best of several runs), microseconds a character, and the longest single
call (one utterance taken). Each run has its own process, the two checkouts in turn, so that a busy
machine slows both.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHARS = 6_144

_TALK = (
    "I mean, if you really want to know what I think about this whole situation that we have been"
    " talking about, then I "
    "would say that it is complicated. He went there with them, and they liked it very much. "
)
_REPLY = (
    "Well, your total is $1,249.99 (including $99.00 shipping), due by 5:30 p.m. on 12/24/2025."
    " Mail "
    "support@example-shop.co.uk. Mr. Smith lives at 221B Baker St. in London. They've lived there"
    " since 1995. "
)
_MARKDOWN = (
    "Here are **three** things:\n\n1. Restart your `router`.\n2. Wait *30 seconds*.\n"
    "3. See [our page](https://example.com/a).\n\n"
)
ORDINARY = {"talk": _TALK, "reply": _REPLY, "markdown": _MARKDOWN}
HOSTILE = {
    "one-letter sentences": "a. ",
    "initials": "U.S. ",
    "titles": "Mr. Smith ",
    "dotted names": "a.b.c.d.e.f.",
    "mail": "a@b.c",
    "grouped numbers": "1,234 ",
    "digits": "1",
    "ranges": "5-6kg-",
    "signs": "-+<>=~$€",
    "stars": "*a* ",
    "directions": "*sighs (laughs ",
    "open tags": "<a ",
    "open brackets": "[(",
    "links": "[a](",
    "underscores": "_.",
    "dots": ".",
    "spaces": " \n",
    "line ends": "a\n",
    "quotes": "\"'",
    "dashes": "a-b-",
    "carets": "x^2^",
    "roman": "King VI ",
    "capitals": "AM IBM's ",
    "emoji": "😀",
    "chinese": "你好，",
    "fences": "``` ",
    "latex": "\\frac{1}{2}",
    "one word": "a",
}


def measure(sample: str, repeat: int) -> dict[str, float]:
    """Best CPU time for `CHARS` characters, and the longest call of it."""
    from orpheus_plugin.text.cutter import UtteranceCutter  # of the checkout that is measured

    text = (sample * (CHARS // len(sample) + 1))[:CHARS]
    whole, longest = [], []
    for _ in range(repeat):
        cutter = UtteranceCutter()
        calls = []
        started = time.thread_time()
        cutter.add(text)
        cutter.end_piece()
        while True:
            before = time.thread_time()
            utterance = cutter.take()
            calls.append(time.thread_time() - before)
            if utterance is None and not cutter.unread:
                break
        whole.append(time.thread_time() - started)
        longest.append(max(calls))
    return {"ms": min(whole) * 1e3, "longest_call_ms": min(longest) * 1e3}


def run(root: Path, names: list[str], repeat: int) -> dict[str, dict[str, float]]:
    """The figures of a checkout, measured in a process of its own."""
    command = [sys.executable, __file__, "--child", ",".join(names), "--repeat", str(repeat)]
    out = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, dict[str, float]] = json.loads(out.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", type=Path, help="another checkout's root")
    parser.add_argument("--only", default="", help="names of samples, with commas")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", action="store_true", help="write to benchmarks/results")
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    samples = ORDINARY | HOSTILE
    logging.disable(logging.WARNING)
    if options.child:
        print(
            json.dumps({n: measure(samples[n], options.repeat) for n in options.child.split(",")})
        )
        return
    names = options.only.split(",") if options.only else list(samples)
    roots = [ROOT, *([options.against.resolve()] if options.against else [])]
    best: list[dict[str, dict[str, float]]] = [{} for _ in roots]
    for _ in range(options.rounds):
        for root, figures in zip(roots, best, strict=True):
            for name, found in run(root, names, options.repeat).items():
                kept = figures.setdefault(name, found)
                figures[name] = {key: min(kept[key], found[key]) for key in found}
    for name in names:
        here = best[0][name]
        line = (
            f"{name:22} {here['ms']:8.1f} ms  {here['ms'] * 1e3 / CHARS:6.1f} us/char "
            f" longest call {here['longest_call_ms']:6.2f} ms"
        )
        if len(best) > 1:
            there = best[1][name]
            line += f"   before {there['ms']:8.1f} ms, now {here['ms'] / there['ms']:.2f} x"
        print(line)
    if options.save:
        sys.path.insert(0, str(ROOT))
        from benchmarks import report

        report.keep()
        report.save(
            "text",
            {"characters": CHARS, "now": best[0], **({"before": best[1]} if len(best) > 1 else {})},
        )


if __name__ == "__main__":
    main()
