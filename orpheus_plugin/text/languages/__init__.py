"""How each language speaks figures, signs and addresses: one module of tables and a few rules for
each."""

from __future__ import annotations

from orpheus_plugin.text.languages import de as de_
from orpheus_plugin.text.languages import en, es, fr, it, ko
from orpheus_plugin.text.languages.base import Language

__all__ = ["Language", "language"]

_LANGUAGES: dict[str, Language] = {
    module.LANGUAGE.code: module.LANGUAGE for module in (en, de_, fr, es, it, ko)
}
_NEUTRAL = Language(code="", spells=False)


def language(code: str) -> Language:
    """The language of a two-letter code; a region ("pt-BR") is ignored. An unknown code gives a
    language without words."""
    return _LANGUAGES.get(code.split("-")[0].lower(), _NEUTRAL)
