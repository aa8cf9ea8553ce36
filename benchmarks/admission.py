"""Admission against the best fixed limit, as arithmetic: `python benchmarks/admission.py`.

Machines with a speed curve, jitter and slow spells (tests/support/open_load.py) under an open load.
Per load, means over three seeds: goodput as a share of the best fixed limit's, which is found by
trying all sensible ones, and C100 of the admitted.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.report import add_save_option, save  # noqa: E402
from tests.engine.test_admission import GPU, LARGE, PACE, SMALL  # noqa: E402
from tests.support.open_load import Machine, measured, run  # noqa: E402

LOADS = (0.5, 0.9, 1.2, 2.0)
"""Loads, as shares of what the machine can speak in real time."""


def compare(machine: Machine, load: float, seed: int) -> tuple[float, float, int]:
    """Goodput relative to the best fixed limit, C100, and that limit."""
    rate = load * machine.turns_per_s
    seconds = 300 if machine.ceiling <= 16 else 60
    tried = {
        min(machine.ceiling, max(1, round(machine.enough * part / 10))) for part in range(4, 13)
    }
    fixed = {limit: run(machine, rate, limit, seconds=seconds, seed=seed) for limit in tried}
    best = max(fixed, key=lambda limit: fixed[limit].goodput)
    own = run(machine, rate, measured(machine), seconds=seconds, seed=seed)
    return own.goodput / fixed[best].goodput, own.c100, best


def _cell(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_save_option(parser)
    parser.parse_args()
    rows: list[dict[str, Any]] = []
    print(
        "| machine | pace | load | best fixed | goodput, share of it | C100 |\n"
        "|---|---|---|---|---|---|"
    )
    for name, machine in (("small", SMALL), ("large", LARGE), ("gpu", GPU)):
        for pace, (by_time, jitter) in PACE.items():
            for load in LOADS:
                found = [
                    compare(replace(machine, pace=by_time, jitter=jitter), load, seed)
                    for seed in (1, 2, 3)
                ]
                row = {
                    "machine": name,
                    "pace": pace,
                    "load": load,
                    "best_fixed": [best for *_, best in found],
                    "goodput_share": statistics.mean(share for share, *_ in found),
                    "c100": statistics.mean(c100 for _, c100, _ in found),
                }
                rows.append(row)
                print("|", " | ".join(_cell(value) for value in row.values()), "|", flush=True)
    save("admission", {"rows": rows})


if __name__ == "__main__":
    main()
