"""WordNet's example sentences, definitions and words."""

from __future__ import annotations

import re
from pathlib import Path

WORDNET = Path("/usr/share/wordnet")
"""Where Debian's ``wordnet-base`` puts its data files."""

WORD = re.compile(r"[a-z]{3,14}")
PLAIN = re.compile(r"[A-Za-z ,.'?!\-]+")


def clean(text: str) -> str:
    """Letters, spaces and ``,.?!'-`` only, single spaces; hyphens only inside words."""
    text = re.sub(r"\s+-+\s*|-+\s+", ", ", text.strip())
    return re.sub(r"\s+", " ", text).replace(" ,", ",").strip()


def _files(root: Path, kind: str) -> list[Path]:
    """WordNet's files of a kind (``data`` or ``index``), sorted. Ends the program where there are
    none."""
    found = sorted(root.glob(f"{kind}.*"))
    if not found:
        raise SystemExit(
            f"{root} has no WordNet ({kind}.noun and so on), whose sentences the voice learns to"
            " read: install Debian's or Ubuntu's package wordnet-base"
        )
    return found


def sentences(root: Path = WORDNET) -> list[str]:
    """WordNet's quoted examples as sentences, sorted, without duplicates."""
    found: set[str] = set()
    for path in _files(root, "data"):
        for line in path.read_text(errors="ignore").splitlines():
            for quote in re.findall(r'"([^"]{8,150})"', line):
                quote = clean(quote.strip().rstrip(";"))
                if PLAIN.fullmatch(quote) and len(quote.split()) >= 2:
                    quote = quote[0].upper() + quote[1:]
                    found.add(quote if quote[-1] in ".?!" else quote + ".")
    return sorted(found)


def glosses(root: Path = WORDNET) -> list[str]:
    """WordNet's definitions (lower-case fragments), up to 80 characters, sorted."""
    found: set[str] = set()
    for path in _files(root, "data"):
        for line in path.read_text(errors="ignore").splitlines():
            gloss = clean(line.partition("| ")[2].partition(";")[0].partition(' "')[0].strip())
            if 12 <= len(gloss) <= 80 and PLAIN.fullmatch(gloss):
                found.add(gloss if gloss[-1] in ".?!" else gloss + ".")
    return sorted(found)


def words(root: Path = WORDNET) -> set[str]:
    """Single words of WordNet: its entries, and the words of its definitions and examples."""
    found: set[str] = set()
    for path in _files(root, "index"):
        for line in path.read_text(errors="ignore").splitlines():
            if WORD.fullmatch(entry := line.partition(" ")[0]):
                found.add(entry)
    for path in _files(root, "data"):
        for line in path.read_text(errors="ignore").splitlines():
            found.update(
                w for w in re.split(r"[^A-Za-z'-]+", line.partition("| ")[2]) if WORD.fullmatch(w)
            )
    return found
