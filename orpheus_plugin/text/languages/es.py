"""Spanish."""

from __future__ import annotations

import re

from orpheus_plugin.text.languages.base import Language, agreeing_half, months, word_set
from orpheus_plugin.text.numerals import number_words

MONTHS, MONTH_NAMES = months(
    "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre"
)
MONTH_NAMES.update({"setiembre": 9, "sept": 9})


def _one(name: str, many: str = "", article: str = "un") -> tuple[str, str]:
    return f"{article} {name}", many or f"{name}s"


def _money(
    name: str, cent: str = "céntimo", article: str = "un", many: str = ""
) -> tuple[str, str, str, str]:
    return f"{article} {name}", many or f"{name}s", f"un {cent}", f"{cent}s"


_EURO, _DOLLAR = _money("euro"), _money("dólar", "centavo", "un", "dólares")
_US_DOLLAR = _money("dólar estadounidense", "centavo", "un", "dólares estadounidenses")
_POUND = _money("libra", "penique", "una")


def _ordinal(value: int, form: str) -> str:
    """After the tenth a plain number is usual."""
    if form not in ("º", "ª", "er", "o", "a", "°") or not value:
        return ""
    said = number_words(value, "es", "ordinal" if value <= 10 else "cardinal") or ""
    if form == "ª" or form == "a":
        return said[:-1] + "a" if said.endswith("o") else said
    return said[:-1] if form == "er" and said.endswith("o") else said


def _date(day: int, month: int, year: str | None, before: str) -> str:
    said = f"{number_words(day, 'es') or day} de {MONTHS[month - 1]}"
    if year is None:
        return said
    return f"{said} de {number_words(int(year if len(year) == 4 else f'20{year}'), 'es')}"


def _clock(hour: int, minute: int, named: bool) -> str:
    said = {1: "una", 21: "veintiuna"}.get(hour) or number_words(hour, "es") or str(hour)
    return f"{said} y {number_words(minute, 'es')}" if minute else said


_FEMININE = word_set(
    "mujer mujeres mano manos noche noches calle calles clase clases parte partes vez veces foto"
    " fotos moto motos serie series "
    "llave llaves carne carnes nube nubes luz luces cruz cruces voz voces flor flores ley leyes"
    " piel pieles red redes pared "
    "paredes imagen imágenes orden órdenes base bases fase fases frase frases tarde tardes gente"
    " leche sal miel torre torres "
    "nave naves madre madres razón razones habitación canción mitad señal señales sede sedes"
    " llamada"
)
_MASCULINE = word_set(
    "día días problema problemas sistema sistemas programa programas tema temas idioma idiomas"
    " mapa mapas planeta planetas "
    "clima climas poema poemas síntoma síntomas esquema esquemas diploma diplomas drama dramas"
    " sofá sofás dilema dilemas "
    "kilograma gramos tranvía tranvías cura panorama fantasma fantasmas dálmatas"
)


def _feminine(noun: str) -> bool:
    return noun in _FEMININE or (
        re.search(r"(?:as?|[cs]i(?:ón|ones)|[dt]ad(?:es)?|tud(?:es)?|umbres?)$", noun) is not None
        and noun not in _MASCULINE
    )


def _counted(said: str, noun: str, before: str) -> str:
    """ "21 libros" is veintiún, "21 casas" veintiuna, "200 casas" doscientas, "a la 1" una."""
    noun, before = noun.lower(), before.lower()
    if not noun and before in ("la", "las"):
        noun = "una hora"
    if not noun or noun.startswith("uno "):
        return said
    article, _, name = noun.rpartition(" ")
    if (
        not article
        and name.endswith("s") == (said == "uno")
        and name not in ("mes", "mil", "millón", "millones")
    ):
        return said  # no noun: "el 21 gana"
    feminine = article.startswith("una") or (not article and _feminine(name))
    head, scale, rest = said.rpartition("millones")
    if feminine:
        rest = re.sub(r"ientos\b", "ientas", rest)
        rest = re.sub(r"uno$", "una", rest)
    elif rest.endswith("uno"):
        rest = rest[:-3] + ("ún" if rest.endswith("veintiuno") else "un")
    return head + scale + rest


LANGUAGE = Language(
    code="es",
    decimals={",": "coma", ".": "punto"},
    groups=".",
    spaced_groups=True,
    digits=("cero", "uno", "dos", "tres", "cuatro", "cinco", "seis", "siete", "ocho", "nueve"),
    minus="menos",
    plus="más",
    to="a",
    times="veces",
    by="por",
    over="entre",
    number="número",
    number_marks=word_set("n.º nº n° núm. num. no."),
    phones=r"[89]\d \d{3} \d{2} \d{2}|[6789]\d{2} \d{2} \d{2} \d{2}",
    squared="al cuadrado",
    cubed="al cubo",
    power="elevado a {}",
    times_ten="por diez elevado a",
    currencies={
        "€": _EURO, "EUR": _EURO, "$": _DOLLAR, "USD": _US_DOLLAR, "US$": _US_DOLLAR, "£": _POUND,
        "GBP": _POUND, "¥": _money("yen", "sen", "un", "yenes"),
        "MXN": _money("peso", "centavo"), "₹": _money("rupia", "paisa", "una"),
        "CHF": _money("franco suizo", "céntimo", "un", "francos suizos"),
    },
    money=" con ",
    units={
        "km": _one("kilómetro"), "m": _one("metro"), "cm": _one("centímetro"),
        "mm": _one("milímetro"), "kg": _one("kilo"), "g": _one("gramo"),
        "mg": _one("miligramo"), "t": _one("tonelada", "", "una"), "l": _one("litro"),
        "ml": _one("mililitro"), "km/h": _one("kilómetro por hora", "kilómetros por hora"),
        "°c": _one("grado centígrado", "grados centígrados"),
        "ºc": _one("grado centígrado", "grados centígrados"),
        "°f": _one("grado Fahrenheit", "grados Fahrenheit"),
        "°": _one("grado"), "%": ("uno por ciento", "por ciento"), "kb": _one("kilobyte"),
        "mb": _one("megabyte"), "gb": _one("gigabyte"),
        "tb": _one("terabyte"), "hz": _one("hercio"), "khz": _one("kilohercio"),
        "mhz": _one("megahercio"), "ghz": _one("gigahercio"),
        "kw": _one("kilovatio"), "kwh": _one("kilovatio hora", "kilovatios hora"),
        "W": _one("vatio"), "min": _one("minuto"), "s": _one("segundo"),
        "h": _one("hora", "", "una"), "m²": _one("metro cuadrado", "metros cuadrados"),
        "m³": _one("metro cúbico", "metros cúbicos"), "kcal": _one("kilocaloría", "", "una"),
    },
    periods={
        "mes": "mes", "año": "año", "día": "día", "h": "hora", "hora": "hora", "sem": "semana",
        "kg": "kilo", "km": "kilómetro", "l": "litro",
        "min": "minuto", "s": "segundo", "m²": "metro cuadrado", "kwh": "kilovatio hora",
    },
    per="por",
    scales={"M": "millones"},
    money_scales={"k": "mil", "K": "mil"},
    scale_words=word_set("mil millón millones billón billones"),
    scale_link=" de ",
    months=MONTHS,
    month_names=MONTH_NAMES,
    codes=word_set("código codigo pin otp postal iban tel tel. teléfono fax clave contraseña c.p."
    " cp extensión"),
    maybe_codes=word_set("número numero habitación vuelo cuenta pedido expediente"),
    links=word_set("es el la postal de era número"),
    dials=word_set("marque marca llame llama marcar"),
    dial_links=word_set("al el o y"),
    little_words=word_set("más menos que se no hay está y o a al en para si de del con es son era"
    " el la los las ahora luego pero antes después por"),
    date=_date,
    clock=_clock,
    ordinal=_ordinal,
    counted=_counted,
    parts={"1/2": "medio", "1/3": "un tercio", "2/3": "dos tercios", "1/4": "un cuarto",
    "3/4": "tres cuartos"},
    mixed=agreeing_half("medio", "media", "y", _feminine),
    out_of="de",
    symbols={
        "&": "y", "@": "arroba", "+": "más", "=": "igual a", "%": "por ciento", "×": "por",
        "·": "por", "÷": "entre", "<": "menos de", ">": "más de",
        "≤": "como máximo", "≥": "como mínimo", "≈": "unos", "~": "unos", "±": "más o menos",
        "²": "al cuadrado", "³": "al cubo", "§": "sección",
        "√": "raíz de", "→": "a", "°": "grados", "≠": "distinto de", "∞": "infinito", "π": "pi",
    },
    lone_currencies={"€": "euros", "$": "dólares", "£": "libras"},
    operations={"*": "por", "/": "entre", "-": "menos"},
    address=("punto", "barra", "arroba", "guion", "guion bajo"),
    keys={"*": "asterisco", "#": "almohadilla"},
)  # fmt: skip
