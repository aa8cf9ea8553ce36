"""Whole numbers in words, by `num2words` if it is installed and knows the language."""

from __future__ import annotations

from functools import lru_cache


@lru_cache(maxsize=4096)
def number_words(value: int, language: str = "en", form: str = "cardinal") -> str | None:
    """A whole number in words, or None if the language or the library is missing."""
    try:
        from num2words import num2words

        text = str(num2words(value, lang=language, to=form))
    except (ImportError, NotImplementedError, OverflowError, ValueError, TypeError, KeyError):
        return None
    if language == "en":
        return text.replace(",", "").replace("-", " ")
    if language == "es":  # veintiuno, but veintiún mil
        return text.replace("veintiuno mil", "veintiún mil").replace("uno mil", "un mil")
    return text
