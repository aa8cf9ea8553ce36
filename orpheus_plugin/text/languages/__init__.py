"""What each language says for figures, signs and addresses: one module of tables and a few rules
for each."""

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
    """The language of a two-letter code, a region behind it aside ("pt-BR"); one without words if
    it is not known."""
    return _LANGUAGES.get(code.split("-")[0].lower(), _NEUTRAL)
