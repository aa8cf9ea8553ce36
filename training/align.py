"""Which letter each phoneme belongs to.

The teacher says when a phoneme sounds, but not which letters it reads. Words are paired first (both
sides keep their spaces); inside a word the letters and phonemes are aligned in order by dynamic
programming, with costs learned from the words themselves (Viterbi training, a few rounds).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import numpy as np
import numpy.typing as npt

from training.grid import PAD

MARKS = "ˈˌː"
"""Symbols that belong to the phoneme after them (or, for length, before them)."""
PAUSES = " .,?!;:—…" + PAD

Table = dict[tuple[str, str], float]


def words_of(text: str) -> list[tuple[int, int]]:
    """Spans (start, end) of the words of a text, punctuation around them left out."""
    spans, start = [], -1
    for i, c in enumerate(text + " "):
        if c.isalpha() or c == "'" or (c == "-" and start >= 0):
            if start < 0:
                start = i
        elif start >= 0:
            spans.append((start, i))
            start = -1
    return spans


def groups_of(symbols: str) -> list[tuple[int, int]]:
    """Spans (start, end) of the words of a phoneme string."""
    spans, start = [], -1
    for i, c in enumerate(symbols + " "):
        if c in PAUSES:
            if start >= 0:
                spans.append((start, i))
                start = -1
        elif start < 0:
            start = i
    return spans


class Aligner:
    """Letters to phonemes, in order; several phonemes may share a letter, letters may be silent."""

    def __init__(self) -> None:
        self.cost: Table = {}
        self.cache: dict[tuple[str, str], list[int]] = {}

    def word(self, letters: str, phonemes: str) -> list[int]:
        """For each phoneme the index of its letter (never decreasing)."""
        key = (letters, phonemes)
        if key in self.cache:
            return self.cache[key]
        n, m = len(letters), len(phonemes)
        best = [[math.inf] * n for _ in range(m)]
        back = [[0] * n for _ in range(m)]
        silent = [self.cost.get((c, ""), 3.0) for c in letters]
        total = np.concatenate([[0.0], np.cumsum(silent)])
        for j in range(m):
            mark = phonemes[j] in MARKS
            for i in range(n):
                # Marks have no letter of their own: a small slope keeps them near the diagonal.
                slope = 0.15 * abs(i / n - j / m) * n
                fit = slope if mark else self.cost.get((letters[i], phonemes[j]), 6.0) + slope
                if j == 0:
                    best[j][i] = fit + float(total[i])
                    continue
                low, arg = best[j - 1][i] + (0.0 if phonemes[j - 1] in MARKS else 1.5), i
                for k in range(i):
                    skipped = float(total[i] - total[k + 1])
                    if best[j - 1][k] + skipped < low:
                        low, arg = best[j - 1][k] + skipped, k
                best[j][i], back[j][i] = low + fit, arg
        i = min(range(n), key=lambda k: best[m - 1][k] + float(total[n] - total[k + 1]))
        path = [i]
        for j in range(m - 1, 0, -1):
            i = back[j][i]
            path.append(i)
        path.reverse()
        self.cache[key] = path
        return path

    def learn(self, pairs: list[tuple[str, str]], rounds: int = 4) -> None:
        """Learn the costs from (letters, phonemes) pairs of words."""
        for _ in range(rounds):
            count: Counter[tuple[str, str]] = Counter()
            seen: defaultdict[str, float] = defaultdict(float)
            for letters, phonemes in pairs:
                path = self.word(letters, phonemes)
                used = set()
                for i, p in zip(path, phonemes, strict=True):
                    if p not in MARKS:
                        count[letters[i], p] += 1
                        seen[letters[i]] += 1
                        used.add(i)
                for i, c in enumerate(letters):
                    if i not in used:
                        count[c, ""] += 1
                        seen[c] += 1
            self.cost = {k: -math.log((v + 0.1) / seen[k[0]]) for k, v in count.items()}
            self.cache.clear()

    def pointers(self, text: str, symbols: str) -> npt.NDArray[np.int16] | None:
        """For each symbol the index into ``text`` of the letter being read.

        Pauses point at the space or punctuation after the word, the opening silence of a sentence
        at its first letter. ``None`` where the words of both sides do not pair up.
        """
        spans, groups = words_of(text), groups_of(symbols)
        if len(spans) != len(groups) or not spans:
            return None
        out = np.zeros(len(symbols), np.int16)
        here = 0
        for (a, b), (s, e) in zip(spans, groups, strict=True):
            # Silence between the last word and this one: the gap's characters in turn.
            gap = list(range(here, a))
            start = s
            while start > 0 and symbols[start - 1] in PAUSES:
                start -= 1
            for k in range(start, s):
                out[k] = gap[min(k - start, len(gap) - 1)] if gap else a
            if s == start and start > 0:
                out[start] = a
            if symbols[s - 1] == PAD and s > 0:
                out[s - 1] = a
            letters = text[a:b].lower()
            for k, i in enumerate(self.word(letters, symbols[s:e])):
                out[s + k] = a + i
            here = b
        out[groups[-1][1] :] = here
        return out
