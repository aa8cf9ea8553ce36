"""Roman numerals after a name or word that takes a number: World War II, Henry VIII, chapter IV,
Louis XIV, siglo XXI."""

from __future__ import annotations

import re

from orpheus_plugin.text.context import Text
from orpheus_plugin.text.languages import Language
from orpheus_plugin.text.languages.base import word_set
from orpheus_plugin.text.numerals import number_words

_ROMAN = re.compile(r"M{0,3}(?:CM|CD|D?C{0,3})(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})")
_CENTURY = re.compile(r"([IVXLC]+)(e|ème|er)$")
_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
_RULERS = word_set(
    "Pío Élisabeth Clément Clemente Benoît Grégoire Gregorio Inocencio Urbano Sixto León Léon "
    "Jean-Paul Isabella Victoria Catalina María Juana Elisabetta Caterina Margarethe Margarita "
    "Christina Cristina Isabelle Alexander Alexandre Alfonso Benedict Benedikt Benedetto Benito "
    "Carl Carlo Carlos Catherine Charles Christian Clement Darius Edward Elizabeth Elisabeth "
    "Emanuele Felipe Ferdinand Fernando Francis Franz Frederick Friedrich George Georg Gregory "
    "Gustav Haakon Harald Heinrich Henri Henry Innocent Isabel Ivan James Jean Johann Johannes "
    "John Josef Joseph Juan Julius Karl Katharina Leo Leopold Louis Ludwig Luigi Mary Maximilian "
    "Mohammed Napoleon Napoléon Napoleone Nicholas Nikolaus Olaf Otto Pablo Paolo Paul Pedro "
    "Peter Philip Philipp Philippe Pius Pie Pio Ramses Ramesses Richard Robert Rudolf Sixtus "
    "Umberto Urban Victor Vittorio Wilhelm William Xerxes Giovanni Francesco Enrico Enrique Luis"
)
_QUEENS = word_set(
    "Catherine Elizabeth Elisabeth Isabel Isabella Katharina Mary Victoria Catalina María Juana "
    "Elisabetta Caterina Margarethe Margarita Christina Cristina Anne Ana Anna Isabelle Élisabeth "
    "Marie"
)
_CENTURIES = {"en": ("century", "centuries"), "it": ("secolo",), "de": ("jahrhundert",)}
_TITLES = word_set(
    "king queen pope emperor empress tsar czar prince sultan pharaoh könig königin papst "
    "kaiser zar roi reine pape empereur rey reina papa emperador re regina imperatore"
)
_NUMBERED = word_set(
    "world war chapter part act scene book volume vol section article appendix type phase "
    "stage class grade level category figure table title episode super bowl round apollo "
    "amendment division mark unit schedule annex step kapitel teil band akt artikel anhang "
    "weltkrieg typ stufe chapitre partie tome acte scène article annexe guerre type "
    "capítulo parte tomo acto escena artículo anexo siglo tipo guerra capitolo atto scena "
    "articolo allegato volume fase fascia xv"
)
_NO_NUMERALS = word_set(
    "CC CD CDC CI CL CM CV CVI DC DI DIM DL DM DVI ID II. LCD LI MC MD MDM MI MIX ML MM MMC "
    "XD XL XXL XXX LL VI. CIV CIVIC LIVID VIM"
)


def value(written: str) -> int | None:
    """The value of a Roman numeral; None for other words."""
    if not written or not _ROMAN.fullmatch(written):
        return None
    total = 0
    for index, letter in enumerate(written):
        number = _VALUES[letter]
        following = _VALUES.get(written[index + 1 : index + 2], 0)
        total += -number if number < following else number
    return total


def read(text: Text, written: str, place: int) -> str | None:
    """How a Roman numeral at a place is spoken; None if the word before it does not take one."""
    language = text.language
    if century := _CENTURY.match(written):
        number = value(century[1])
        return (
            language.ordinal(number, century[2]) or None
            if number and language.code == "fr"
            else None
        )
    number = value(written)
    if number is None or written in _NO_NUMERALS:
        return None
    after = text.word_after(place + len(written))
    if number > 1 and after.lower() in _CENTURIES.get(language.code, ()):  # "XVIII century"
        return number_words(number, language.code, "ordinal")
    if not place:
        return None
    before = text.word_before(place)
    names = text.before(place, 2)
    if before == "the" and len(names) == 2 and names[0].capitalize() in _RULERS:
        return number_words(number, language.code, "ordinal")
    before = before.rstrip(".")
    ruler = before in _RULERS or (len(names) == 2 and names[0] in _TITLES and before[:1].isupper())
    if before.lower() in _NUMBERED and (before[:1].isupper() or number > 1):
        ruler = False
    elif not ruler and (
        language.code not in ("en", "") or number < 2 or len(written) < 2 or not before.istitle()
    ):
        return None
    if (
        ruler
        and len(written) == 1
        and written == "I"
        and text.goes_on(place + 1)
        and language.code == "en"
    ):
        return None  # "George I think"
    feminine = before in _QUEENS
    return (
        _of_ruler(language, number, feminine=feminine)
        if ruler
        else number_words(number, language.code)
    )


def _of_ruler(language: Language, number: int, *, feminine: bool) -> str | None:
    if language.code == "en":
        said = number_words(number, "en", "ordinal")
        return said and f"the {said}"
    if language.code == "de":
        said = number_words(number, "de", "ordinal")
        return said and f"{'die' if feminine else 'der'} {said.capitalize()}"
    if number == 1 or (language.code == "es" and number <= 10) or language.code == "it":
        said = number_words(number, language.code, "ordinal")
        if said and feminine:
            return "première" if language.code == "fr" else f"{said[:-1]}a"
        return said
    return number_words(number, language.code)
