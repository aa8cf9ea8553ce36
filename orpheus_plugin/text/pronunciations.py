"""A table of pronunciations, for names that no rule can know: written form -> how the model reads
it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from orpheus_plugin.errors import InvalidOptions

MAX_ENTRIES = 2_000
MAX_CHARS = 120
"""The longest side of an entry."""


class Pronunciations(Mapping[str, str]):
    """Whole words and how they are spoken:
    `Pronunciations({"Nguyen": "win", "Des Moines": "duh moyn"})`.

    An entry with a capital matches only as it is written; one without capitals matches any
    capitalisation. Only the speech changes: transcripts and word times keep the written form. Equal
    tables are equal and hashable.

    Cost: one dictionary lookup for each word of a text.

    Raises:
        InvalidOptions: an entry is not a string, is empty or too long, or there are too many.
    """

    def __init__(self, table: Mapping[str, str] | None = None) -> None:
        self._table: dict[str, str] = {}
        if table is not None and not isinstance(table, Mapping):
            raise InvalidOptions(
                f"pronunciations must be a map of words, not {type(table).__name__}"
            )
        for written, spoken in (table or {}).items():
            _check(written, "the word")
            _check(spoken, f"the pronunciation of {written!r}")
            self._table[" ".join(written.split())] = " ".join(spoken.split())
        if len(self._table) > MAX_ENTRIES:
            raise InvalidOptions(
                f"at most {MAX_ENTRIES} pronunciations are taken, not {len(self._table)}"
            )
        self.longest = max((len(word.split()) for word in self._table), default=0)
        """Words of the longest entry."""

    @classmethod
    def from_file(cls, path: str | Path) -> Pronunciations:
        """Read a file of lines `word = spoken`, in UTF-8; empty lines and lines that begin with #
        are skipped.

        Raises:
            InvalidOptions: the file cannot be read, or a line is wrong.
        """
        table: dict[str, str] = {}
        try:
            lines = Path(path).read_text("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidOptions(f"cannot read pronunciations from {path}: {error}") from None
        for number, line in enumerate(lines, 1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            written, equals, spoken = line.partition("=")
            if not equals:
                raise InvalidOptions(
                    f"{path}, line {number}: a line is `word = spoken`, not {line[:40]!r}"
                )
            try:
                table |= cls({written.strip(): spoken.strip()})
            except InvalidOptions as error:
                raise InvalidOptions(f"{path}, line {number}: {error}") from None
        return cls(table)

    def spoken(self, written: str) -> str | None:
        """The spoken form of a word or phrase, without marks around it; None if it is not in the
        table."""
        return self._table.get(written) or self._table.get(written.lower())

    def __or__(self, other: Mapping[str, str]) -> Pronunciations:
        """Both tables; where they differ, the second one counts."""
        return Pronunciations({**self._table, **other}) if other else self

    def __getitem__(self, written: str) -> str:
        return self._table[written]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)

    def __hash__(self) -> int:
        return hash(frozenset(self._table.items()))

    def __repr__(self) -> str:
        return f"Pronunciations({self._table!r})"


def _check(text: object, name: str) -> None:
    if not isinstance(text, str):
        raise InvalidOptions(
            f"{name} must be a string in pronunciations, not {type(text).__name__}"
        )
    if not any(c.isalnum() for c in text):
        raise InvalidOptions(f"{name} needs a letter or a digit in pronunciations, not {text!r}")
    if len(text) > MAX_CHARS:
        raise InvalidOptions(f"{name} has at most {MAX_CHARS} characters in pronunciations")
