"""German."""

from __future__ import annotations

from orpheus_plugin.text.languages.base import Language, months, word_set
from orpheus_plugin.text.numerals import number_words

MONTHS, MONTH_NAMES = months(
    "Januar Februar März April Mai Juni Juli August September Oktober November Dezember"
)
MONTH_NAMES.update({"jänner": 1, "sept": 9, "mrz": 3})
NUMBERED = word_set(
    "fc "
    "platz stock etage klasse mal teil kapitel tag woche monat jahr jahrhundert weltkrieg liga"
    " bundesliga runde halbzeit "
    "advent stufe reihe gang akt auflage quartal semester person versuch preis satz schritt"
    " geburtstag stelle og ug stockwerk spieltag mahnung"
)
AFTER_DATIVE = word_set(
    "in mit bei von nach aus zu seit vor auf an unter zwischen neben über gegenüber"
)
WEAK = word_set(
    "am zum vom im beim dem den des bis ab seit zur nach vor einer einem einen eines meiner meinem"
    " meinen seiner seinem seinen "
    "ihrer ihrem ihren unserer unserem unseren dieser diesem diesen jedem jeden keiner keinem"
    " keinen welchem welchen"
)
STRONG = word_set(
    "der die das diese dieses jeder jede jedes eine keine meine deine seine ihre unsere welche"
    " welcher"
)
DETERMINERS = WEAK | STRONG | word_set("ein kein mein dein sein ihr unser euer")


def _one(name: str, many: str = "", article: str = "ein") -> tuple[str, str]:
    return f"{article} {name}", many or name


def _money(name: str, cent: str, article: str = "ein", many: str = "") -> tuple[str, str, str, str]:
    return f"{article} {name}", many or name, f"ein {cent}", cent


_EURO, _DOLLAR, _POUND, _FRANC = (
    _money("Euro", "Cent"), _money("Dollar", "Cent"), _money("Pfund", "Pence"),
    _money("Franken", "Rappen"),
)  # fmt: skip


def ending(before: str) -> str:
    """The ending of an ordinal after a word: "am dritten", "der dritte", "dritter"."""
    before = before.lower()
    return "n" if before in WEAK else "" if before in STRONG else "r"


def _ordinal(value: int, form: str) -> str:
    """`form` is the word before it."""
    said = number_words(value, "de", "ordinal")
    return said + ending(form) if said else ""


def _date(day: int, month: int, year: str | None, before: str) -> str:
    said = f"{_ordinal(day, before) or day} {MONTHS[month - 1]}"
    if year is None:
        return said
    return f"{said} {number_words(int(year if len(year) == 4 else f'20{year}'), 'de', 'year')}"


def _clock(hour: int, minute: int, named: bool) -> str:
    said = "ein" if hour == 1 else number_words(hour, "de")
    return f"{said} Uhr {number_words(minute, 'de')}" if minute else f"{said} Uhr"


_MASCULINE = word_set(
    "name käse junge kunde gedanke wille haufe buchstabe kollege experte neffe affe löwe hase"
)
_NEUTER = word_set("ende auge interesse gebäude getreide gewerbe")
_FEMININE = word_set(
    "frau nacht hand stadt wand maus tochter mutter schwester nummer regel person kartoffel gabel"
    " woche uhr mark million"
)


def is_feminine(noun: str) -> bool:
    """Whether a noun in the singular is feminine, by its ending."""
    noun = noun.lower()
    return noun in _FEMININE or (
        noun.endswith(
            (
                "e",
                "ung",
                "heit",
                "keit",
                "schaft",
                "ion",
                "tät",
                "ik",
                "erin",
                "liga",
                "zahl",
                "kraft",
            )
        )
        and noun not in _MASCULINE | _NEUTER
    )


def _counted(said: str, noun: str, before: str) -> str:
    """ "1 Tag" is ein, "1 Stunde" eine."""
    if not noun or not said.endswith("eins"):
        return said
    article, _, name = noun.partition(" ")
    feminine = article == "eine" if name else is_feminine(noun)
    return "eine" if said == "eins" and feminine else said[:-1]


NEUTER = word_set(
    "og ug "
    "kind mal jahr kapitel buch auto haus spiel tor jahrhundert semester quartal gespräch treffen"
    " zimmer bild wort ziel projekt problem stockwerk lied bier glas stück gleis fenster"
)
_HALVED_NEUTER = NEUTER | _NEUTER | word_set("kilo kilogramm pfund brot dutzend prozent grad")


def _mixed(whole: str, part: str, noun: str, before: str) -> str:
    """ "½ Stunde" is eine halbe, "½ Liter" ein halber, "eine ½ Stunde" halbe; "2½" zweieinhalb."""
    if whole:
        return (whole[:-1] if whole.endswith("eins") else whole) + part.replace(" ", "").lower()
    if part != "ein halb" or not noun:
        return part
    article, _, name = noun.rpartition(" ")
    name, before = name.lower(), before.lower()
    if article == "eine" or (not article and is_feminine(name)):
        said, ending = "eine", "e"
    else:
        said, ending = "ein", "es" if name in _HALVED_NEUTER else "er"
    if before in ("ein", "eine", "je", "pro"):
        return f"halb{ending}"
    if before in DETERMINERS or before in AFTER_DATIVE:
        return f"halb{'e' if before == 'die' else 'en'}"
    return f"{said} halb{ending}"


LANGUAGE = Language(
    code="de",
    decimals={",": "Komma", ".": "Punkt"},
    groups=".'",
    digits=("null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"),
    to="bis",
    times="mal",
    by="mal",
    over="durch",
    number="Nummer",
    number_marks=word_set("nr. nr"),
    squared="hoch zwei",
    cubed="hoch drei",
    power="hoch {}",
    times_ten="mal zehn hoch",
    currencies={
        "€": _EURO, "EUR": _EURO, "$": _DOLLAR, "USD": _money("US-Dollar", "Cent"),
        "US$": _money("US-Dollar", "Cent"), "£": _POUND,
        "GBP": _POUND, "CHF": _FRANC, "Fr.": _FRANC, "¥": _money("Yen", "Sen"),
        "₹": _money("Rupie", "Paisa", "eine", "Rupien"),
    },
    money=" ",
    units={
        "km": _one("Kilometer"), "m": _one("Meter"), "cm": _one("Zentimeter"),
        "mm": _one("Millimeter"), "kg": _one("Kilogramm"),
        "g": _one("Gramm"), "mg": _one("Milligramm"), "t": _one("Tonne", "Tonnen", "eine"),
        "l": _one("Liter"), "ml": _one("Milliliter"),
        "km/h": _one("Kilometer pro Stunde"), "m/s": _one("Meter pro Sekunde"),
        "°c": _one("Grad Celsius"), "°f": _one("Grad Fahrenheit"),
        "°": _one("Grad"), "%": _one("Prozent"), "‰": _one("Promille"), "kb": _one("Kilobyte"),
        "mb": _one("Megabyte"), "gb": _one("Gigabyte"),
        "tb": _one("Terabyte"), "hz": _one("Hertz"), "khz": _one("Kilohertz"),
        "mhz": _one("Megahertz"), "ghz": _one("Gigahertz"),
        "kw": _one("Kilowatt"), "kwh": _one("Kilowattstunde", "Kilowattstunden", "eine"),
        "W": _one("Watt"), "V": _one("Volt"),
        "min": _one("Minute", "Minuten", "eine"), "min.": _one("Minute", "Minuten", "eine"),
        "std": _one("Stunde", "Stunden", "eine"),
        "std.": _one("Stunde", "Stunden", "eine"), "h": _one("Stunde", "Stunden", "eine"),
        "s": _one("Sekunde", "Sekunden", "eine"),
        "sek": _one("Sekunde", "Sekunden", "eine"), "m²": _one("Quadratmeter"),
        "qm": _one("Quadratmeter"), "m³": _one("Kubikmeter"),
        "uhr": ("ein Uhr", "Uhr"), "ps": _one("P S"),
        "kcal": _one("Kilokalorie", "Kilokalorien", "eine"), "db": _one("Dezibel"),
    },
    periods={
        "mon": "Monat", "monat": "Monat", "jahr": "Jahr", "tag": "Tag", "std": "Stunde",
        "h": "Stunde", "woche": "Woche", "kg": "Kilogramm",
        "km": "Kilometer", "l": "Liter", "min": "Minute", "s": "Sekunde", "m²": "Quadratmeter",
        "kwh": "Kilowattstunde",
    },
    per="pro",
    scales={"Mio.": "Millionen", "Mio": "Millionen", "Mrd.": "Milliarden", "Mrd": "Milliarden",
    "Tsd.": "tausend", "Tsd": "tausend"},
    money_scales={"k": "tausend", "K": "tausend", "M": "Millionen"},
    scale_words=word_set("tausend million millionen milliarde milliarden billionen"),
    months=MONTHS,
    month_names=MONTH_NAMES,
    codes=word_set("code pin plz tan iban otp postleitzahl tel tel. telefon fax durchwahl"
    " telefonnummer handynummer kennwort passwort postfach"),
    maybe_codes=word_set("nummer zimmer flug konto bestellung kundennummer bestellnummer"
    " auftragsnummer kontonummer rechnungsnummer"),
    links=word_set("ist lautet war nummer nr nr. die der unter lauten"),
    dials=word_set("notruf wählen wählt wähle rufen ruf anrufen"),
    dial_links=word_set("sie die bitte den oder und"),
    little_words=word_set("und oder an in für wenn jetzt sofort bei mit aus auf zu um ist sind war"
    " wird werden dann aber nach vor ab bis"),
    date=_date,
    clock=_clock,
    ordinal=_ordinal,
    counted=_counted,
    parts={"1/2": "ein halb", "1/3": "ein Drittel", "2/3": "zwei Drittel", "1/4": "ein Viertel",
    "3/4": "drei Viertel"},
    mixed=_mixed,
    hours=word_set("um gegen"),
    out_of="von",
    symbols={
        "&": "und", "@": "ät", "+": "plus", "=": "gleich", "%": "Prozent", "×": "mal", "·": "mal",
        "÷": "geteilt durch", "<": "kleiner als",
        ">": "größer als", "≤": "höchstens", "≥": "mindestens", "≈": "etwa", "~": "etwa",
        "±": "plus minus", "²": "hoch zwei", "³": "hoch drei",
        "§": "Paragraf", "√": "Wurzel aus", "→": "nach", "°": "Grad", "≠": "ungleich",
        "∞": "unendlich", "π": "Pi",
    },
    lone_currencies={"€": "Euro", "$": "Dollar", "£": "Pfund"},
    operations={"*": "mal", "/": "durch", "-": "minus", ":": "durch"},
    address=("Punkt", "Schrägstrich", "ät", "minus", "Unterstrich"),
    keys={"*": "Stern", "#": "Raute"},
)  # fmt: skip
