"""Italian."""

from __future__ import annotations

import re

from orpheus_plugin.text.languages.base import Language, agreeing_half, months, word_set
from orpheus_plugin.text.numerals import number_words

MONTHS, MONTH_NAMES = months(
    "gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre dicembre"
)
MONTH_NAMES["sett"] = 9


_FEMININE = word_set(
    "notte mano chiave classe parte voce moto foto radio neve luce croce legge arte mente nave"
    " valle madre moglie carne "
    "fine lezione opinione serie pelle torre estate"
)
_MASCULINE = word_set(
    "problema sistema programma tema clima poema diploma panorama pianeta cinema pigiama dramma"
)


def _money(
    name: str, many: str, cent: str = "centesimo", cents: str = "centesimi", article: str = "un"
) -> tuple[str, str, str, str]:
    return f"{article} {name}", many, f"un {cent}", cents


_EURO, _DOLLAR = _money("euro", "euro"), _money("dollaro", "dollari")
_US_DOLLAR = _money("dollaro statunitense", "dollari statunitensi")
_POUND = _money("sterlina", "sterline", "penny", "pence", "una")


def _ordinal(value: int, form: str) -> str:
    if form not in ("º", "ª", "°", "o", "a") or not value:
        return ""
    said = number_words(value, "it", "ordinal") or ""
    return said[:-1] + "a" if form in ("ª", "a") else said


def _date(day: int, month: int, year: str | None, before: str) -> str:
    said = f"{'primo' if day == 1 else number_words(day, 'it') or day} {MONTHS[month - 1]}"
    if year is None:
        return said
    return f"{said} {number_words(int(year if len(year) == 4 else f'20{year}'), 'it')}"


def _clock(hour: int, minute: int, named: bool) -> str:
    said = "una" if hour == 1 else number_words(hour, "it") or str(hour)
    return f"{said} e {number_words(minute, 'it')}" if minute else said


def _feminine(noun: str) -> bool:
    return noun in _FEMININE or noun.endswith(("zione", "sione", "gione", "tà", "tù")) or (
        noun.endswith("a") and noun not in _MASCULINE
    )  # fmt: skip


def _counted(said: str, noun: str, before: str) -> str:
    """ "1 libro" is un, "1 zaino" uno, "1 casa" una."""
    if said != "uno" or not noun:
        return said
    noun = noun.lower()
    if noun.startswith(("un ", "una ", "un'")):
        return "una" if noun.startswith("una ") else noun[:3].rstrip()
    if _feminine(noun):
        return "un'" if noun[0] in "aeiou" else "una"
    return "uno" if re.match(r"s[^aeiou]|z|gn|ps|pn|[xy]", noun) else "un"


LANGUAGE = Language(
    code="it",
    decimals={",": "virgola", ".": "punto"},
    groups=".'",
    digits=("zero", "uno", "due", "tre", "quattro", "cinque", "sei", "sette", "otto", "nove"),
    minus="meno",
    plus="più",
    to="a",
    times="volte",
    by="per",
    over="fratto",
    number="numero",
    number_marks=word_set("n. n° nº num. nr."),
    phones=r"3\d{2} \d{3} \d{4}|3\d{2} \d{6,7}",
    squared="al quadrato",
    cubed="al cubo",
    power="alla {}",
    times_ten="per dieci alla",
    currencies={
        "€": _EURO, "EUR": _EURO, "$": _DOLLAR, "USD": _US_DOLLAR, "US$": _US_DOLLAR, "£": _POUND,
        "GBP": _POUND, "¥": _money("yen", "yen", "sen", "sen"),
        "₹": _money("rupia", "rupie", "paisa", "paise", "una"),
        "CHF": _money("franco svizzero", "franchi svizzeri"),
    },
    money=" e ",
    units={
        "km": ("un chilometro", "chilometri"), "m": ("un metro", "metri"),
        "cm": ("un centimetro", "centimetri"), "mm": ("un millimetro", "millimetri"),
        "kg": ("un chilo", "chili"), "g": ("un grammo", "grammi"),
        "mg": ("un milligrammo", "milligrammi"), "t": ("una tonnellata", "tonnellate"),
        "l": ("un litro", "litri"), "ml": ("un millilitro", "millilitri"),
        "km/h": ("un chilometro all'ora", "chilometri all'ora"),
        "°c": ("un grado", "gradi Celsius"), "ºc": ("un grado", "gradi Celsius"),
        "°f": ("un grado Fahrenheit", "gradi Fahrenheit"), "°": ("un grado", "gradi"),
        "%": ("un per cento", "per cento"), "kb": ("un kilobyte", "kilobyte"),
        "mb": ("un megabyte", "megabyte"), "gb": ("un gigabyte", "gigabyte"),
        "tb": ("un terabyte", "terabyte"), "hz": ("un hertz", "hertz"),
        "khz": ("un chilohertz", "chilohertz"), "mhz": ("un megahertz", "megahertz"),
        "ghz": ("un gigahertz", "gigahertz"), "kw": ("un chilowatt", "chilowatt"),
        "kwh": ("un chilowattora", "chilowattora"), "W": ("un watt", "watt"),
        "min": ("un minuto", "minuti"), "s": ("un secondo", "secondi"), "h": ("un'ora", "ore"),
        "m²": ("un metro quadrato", "metri quadrati"),
        "mq": ("un metro quadrato", "metri quadrati"), "m³": ("un metro cubo", "metri cubi"),
        "kcal": ("una chilocaloria", "chilocalorie"),
    },
    periods={
        "mese": "al mese", "anno": "all'anno", "giorno": "al giorno", "h": "all'ora",
        "ora": "all'ora",
        "settimana": "alla settimana", "notte": "a notte", "kg": "al chilo", "km": "al chilometro",
        "l": "al litro", "min": "al minuto", "s": "al secondo", "m²": "al metro quadrato",
        "kwh": "al chilowattora", "persona": "a persona",
    },
    per="",
    scales={"mln": "milioni", "mld": "miliardi", "Mln": "milioni", "Mld": "miliardi"},
    money_scales={"k": "mila", "K": "mila", "M": "milioni"},
    scale_words=word_set("mila mille milione milioni miliardo miliardi"),
    scale_link=" di ",
    months=MONTHS,
    month_names=MONTH_NAMES,
    codes=word_set("codice pin otp cap iban tel tel. telefono fax cellulare password interno"),
    maybe_codes=word_set("numero stanza camera volo conto ordine pratica"),
    links=word_set("è il la di era numero postale"),
    dials=word_set("chiama chiamate chiami componi componga digita digiti"),
    dial_links=word_set("il al o e"),
    little_words=word_set("e o a al in per se di del con è sono era il la i le poi ma prima dopo"
    " da"),
    date=_date,
    clock=_clock,
    ordinal=_ordinal,
    counted=_counted,
    parts={"1/2": "mezzo", "1/3": "un terzo", "2/3": "due terzi", "1/4": "un quarto",
    "3/4": "tre quarti"},
    mixed=agreeing_half("mezzo", "mezza", "e", _feminine),
    hours=word_set("alle ore dalle"),
    out_of="su",
    symbols={
        "&": "e", "@": "chiocciola", "+": "più", "=": "uguale a", "%": "per cento", "×": "per",
        "·": "per", "÷": "diviso", "<": "meno di", ">": "più di",
        "≤": "al massimo", "≥": "almeno", "≈": "circa", "~": "circa", "±": "più o meno",
        "²": "al quadrato", "³": "al cubo", "§": "paragrafo",
        "√": "radice di", "→": "a", "°": "gradi", "≠": "diverso da", "∞": "infinito",
        "π": "pi greco",
    },
    lone_currencies={"€": "euro", "$": "dollari", "£": "sterline"},
    operations={"*": "per", "/": "diviso", "-": "meno"},
    address=("punto", "barra", "chiocciola", "trattino", "trattino basso"),
    keys={"*": "asterisco", "#": "cancelletto"},
)  # fmt: skip
