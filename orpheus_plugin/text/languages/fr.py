"""French."""

from __future__ import annotations

from orpheus_plugin.text.languages.base import Language, months, word_set
from orpheus_plugin.text.numerals import number_words

MONTHS, MONTH_NAMES = months(
    "janvier février mars avril mai juin juillet août septembre octobre novembre décembre"
)
MONTH_NAMES.update({"janv": 1, "fevrier": 2, "févr": 2, "avr": 4, "juil": 7, "aout": 8, "sept": 9})


def _one(name: str, many: str = "", article: str = "un") -> tuple[str, str]:
    return f"{article} {name}", many or f"{name}s"


def _money(
    name: str, cent: str = "centime", article: str = "un", many: str = ""
) -> tuple[str, str, str, str]:
    return f"{article} {name}", many or f"{name}s", f"un {cent}", f"{cent}s"


_EURO, _DOLLAR, _POUND = _money("euro"), _money("dollar", "cent"), _money("livre", "penny", "une")


def _ordinal(value: int, form: str) -> str:
    if form not in ("er", "re", "ère", "ème", "e", "nd", "nde", "è"):
        return ""
    if value == 1:
        return "première" if form in ("re", "ère") else "premier"
    return number_words(value, "fr", "ordinal") or ""


def _date(day: int, month: int, year: str | None, before: str) -> str:
    said = f"{'premier' if day == 1 else number_words(day, 'fr') or day} {MONTHS[month - 1]}"
    if year is None:
        return said
    return f"{said} {number_words(int(year if len(year) == 4 else f'20{year}'), 'fr')}"


def _clock(hour: int, minute: int, named: bool) -> str:
    said = "une heure" if hour == 1 else f"{number_words(hour, 'fr')} heures"
    return f"{said} {number_words(minute, 'fr')}" if minute else said


_FEMININE = word_set(
    "page semaine heure minute seconde personne maison fois femme fille chambre voiture place nuit"
    " ligne table tasse bouteille "
    "carte lettre image photo question réponse étape chose commande ville rue porte pièce tonne"
    " couleur fleur main voix clé clef "
    "mère soeur sœur classe banque route école église feuille famille baguette robe pomme orange"
    " clope part dent mer fin faim "
    "peau loi croix noix dame copine voisine cliente amie boîte tarte salle note règle page"
    " mille-feuille tâche vidéo radio "
    "douzaine dizaine vingtaine trentaine centaine seconde montre jambe course caisse baisse"
    " hausse demande offre"
)


_FEMININE_ENDINGS = (
    "tion", "sion", "xion", "té", "ette", "ance", "ence", "ure", "ade", "ée", "esse", "aison",
    "ine", "elle", "euse", "trice", "ude", "rie",
)  # fmt: skip


def _counted(said: str, noun: str, before: str) -> str:
    """ "1 page" is une, "21 pages" vingt et une."""
    if said.rpartition(" ")[2].rpartition("-")[2] != "un" or not noun:
        return said
    article, _, name = noun.lower().rpartition(" ")
    name = name if said == "un" else name.removesuffix("s")
    feminine = article.startswith("une") or (
        not article and (name in _FEMININE or name.endswith(_FEMININE_ENDINGS))
    )
    return f"{said}e" if feminine else said


def _mixed(whole: str, part: str, noun: str, before: str) -> str:
    """ "½ heure" is une demi, "une ½ heure" demi; "2½" deux et demi."""
    if part != "un demi" or not (whole or noun):
        return f"{whole} {part}".strip()
    if whole:
        return f"{whole} et demi"
    return (
        "demi"
        if before.lower() in ("un", "une", "la", "le")
        else f"{_counted('un', noun, '')} demi"
    )


LANGUAGE = Language(
    code="fr",
    decimals={",": "virgule", ".": "point"},
    groups=".'",
    spaced_groups=True,
    digits=("zéro", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf"),
    minus="moins",
    to="à",
    times="fois",
    by="par",
    over="sur",
    number="numéro",
    number_marks=word_set("n° nº no. nos"),
    squared="au carré",
    cubed="au cube",
    power="puissance {}",
    times_ten="fois dix puissance",
    currencies={
        "€": _EURO, "EUR": _EURO, "$": _DOLLAR,
        "USD": _money("dollar américain", "cent", "un", "dollars américains"),
        "US$": _money("dollar américain", "cent", "un", "dollars américains"), "£": _POUND,
        "GBP": _POUND, "CHF": _money("franc suisse", "centime", "un", "francs suisses"),
        "¥": _money("yen", "sen"), "₹": _money("roupie", "paisa", "une"),
    },
    money=" ",
    units={
        "km": _one("kilomètre"), "m": _one("mètre"), "cm": _one("centimètre"),
        "mm": _one("millimètre"), "kg": _one("kilo"),
        "g": _one("gramme"), "mg": _one("milligramme"), "t": _one("tonne", "", "une"),
        "l": _one("litre"), "ml": _one("millilitre"),
        "cl": _one("centilitre"), "km/h": _one("kilomètre heure", "kilomètres heure"),
        "°c": _one("degré Celsius", "degrés Celsius"),
        "°f": _one("degré Fahrenheit", "degrés Fahrenheit"), "°": _one("degré"),
        "%": ("un pour cent", "pour cent"), "‰": ("un pour mille", "pour mille"),
        "Ko": _one("kilooctet"), "Mo": _one("mégaoctet"), "Go": _one("gigaoctet"),
        "To": _one("téraoctet"), "hz": _one("hertz", "hertz"),
        "khz": _one("kilohertz", "kilohertz"), "mhz": _one("mégahertz", "mégahertz"),
        "ghz": _one("gigahertz", "gigahertz"), "kw": _one("kilowatt"),
        "kwh": _one("kilowattheure"), "W": _one("watt"), "min": _one("minute", "", "une"),
        "mn": _one("minute", "", "une"), "s": _one("seconde", "", "une"),
        "h": _one("heure", "", "une"), "j": _one("jour"),
        "m²": _one("mètre carré", "mètres carrés"), "m³": _one("mètre cube", "mètres cubes"),
        "kcal": _one("kilocalorie", "", "une"),
    },
    periods={
        "mois": "mois", "an": "an", "j": "jour", "jour": "jour", "h": "heure", "sem": "semaine",
        "kg": "kilo", "km": "kilomètre", "l": "litre",
        "min": "minute", "s": "seconde", "m²": "mètre carré", "kwh": "kilowattheure",
        "pers": "personne",
    },
    per="par",
    scales={"Md": "milliards", "Mds": "milliards", "Mrd": "milliards"},
    money_scales={"k": "mille", "K": "mille", "M": "millions"},
    scale_words=word_set("mille million millions milliard milliards"),
    scale_link=" d'",
    months=MONTHS,
    month_names=MONTH_NAMES,
    codes=word_set("cp code pin otp postal iban tél tél. tel tel. téléphone fax poste cedex"),
    maybe_codes=word_set("numéro chambre vol compte commande dossier"),
    links=word_set("est le postal de était numéro :"),
    dials=word_set("composez compose composer"),
    dial_links=word_set("le au ou et"),
    little_words=word_set("et ou à au en pour si de du des dans avec est sont était le la les"
    " maintenant puis mais avant après par sur"),
    date=_date,
    clock=_clock,
    counted=_counted,
    parts={"1/2": "un demi", "1/3": "un tiers", "2/3": "deux tiers", "1/4": "un quart",
    "3/4": "trois quarts"},
    mixed=_mixed,
    out_of="sur",
    ordinal=_ordinal,
    symbols={
        "&": "et", "@": "arobase", "+": "plus", "=": "égale", "%": "pour cent", "×": "fois",
        "·": "fois", "÷": "divisé par", "<": "inférieur à",
        ">": "supérieur à", "≤": "au plus", "≥": "au moins", "≈": "environ", "~": "environ",
        "±": "plus ou moins", "²": "au carré", "³": "au cube",
        "§": "paragraphe", "√": "racine de", "→": "vers", "°": "degrés", "≠": "différent de",
        "∞": "infini", "π": "pi",
    },
    lone_currencies={"€": "euros", "$": "dollars", "£": "livres"},
    operations={"*": "fois", "/": "divisé par", "-": "moins"},
    address=("point", "barre oblique", "arobase", "tiret", "tiret bas"),
    keys={"*": "étoile", "#": "dièse"},
)  # fmt: skip
