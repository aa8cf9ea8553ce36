"""English."""

from __future__ import annotations

from orpheus_plugin.text.languages.base import Language, months, word_set
from orpheus_plugin.text.numerals import number_words

MONTHS, MONTH_NAMES = months(
    "January February March April May June July August September October November December"
)
MONTH_NAMES["sept"] = 9
DAY_NAMES = {
    **{name[:3].lower(): name for name in ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday",
    "Saturday", "Sunday")},
    "tues": "Tuesday", "thur": "Thursday", "thurs": "Thursday",
}  # fmt: skip
_DIGITS = ("oh", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def _money(
    name: str, many: str = "", cent: str = "cent", cents: str = "cents"
) -> tuple[str, str, str, str]:
    return f"one {name}", many or f"{name}s", f"one {cent}", cents


_DOLLARS = {
    "$": "dollar", "US$": "U S dollar", "USD": "U S dollar", "A$": "Australian dollar",
    "AU$": "Australian dollar", "CA$": "Canadian dollar", "AUD": "Australian dollar",
    "C$": "Canadian dollar", "CAD": "Canadian dollar", "HK$": "Hong Kong dollar",
    "NZ$": "New Zealand dollar", "S$": "Singapore dollar",
    "€": "euro", "EUR": "euro",
}  # fmt: skip
_POUND = _money("pound", "", "penny", "pence")
_YEN = _money("yen", "yen", "sen", "sen")
_RUPEE = _money("rupee", "", "paisa", "paise")
CURRENCIES = {
    **{sign: _money(name) for sign, name in _DOLLARS.items()},
    "£": _POUND, "GBP": _POUND, "¥": _YEN, "JPY": _YEN, "₹": _RUPEE, "INR": _RUPEE, "Rs.": _RUPEE,
    "Rs": _RUPEE,
    "CHF": _money("Swiss franc", "", "centime", "centimes"), "₩": _money("won", "won"),
    "KRW": _money("won", "won"),
    "CNY": _money("yuan", "yuan", "fen", "fen"), "RMB": _money("yuan", "yuan", "fen", "fen"),
    "₽": _money("ruble", "", "kopeck", "kopecks"), "₺": _money("lira", "lira", "kurush", "kurush"),
    "₿": _money("bitcoin"),
    "₪": _money("shekel", "", "agora", "agorot"),
    "R$": _money("real", "reais", "centavo", "centavos"), "¢": ("one cent", "cents", "", ""),
    "SEK": _money("krona", "kronor", "öre", "öre"), "NOK": _money("krone", "kroner", "øre", "øre"),
    "DKK": _money("krone", "kroner", "øre", "øre"),
    "PLN": _money("zloty", "zloty", "grosz", "groszy"), "₱": _money("peso"), "MXN": _money("peso"),
    "฿": _money("baht", "baht"), "₫": _money("dong", "dong"),
    "₦": _money("naira", "naira", "kobo", "kobo"), "₴": _money("hryvnia", "hryvnias"),
    "AED": _money("dirham"), "SAR": _money("riyal"), "kr": _money("krona", "kronor", "öre", "öre"),
    "zł": _money("zloty", "zloty", "grosz", "groszy"),
    "Fr.": _money("Swiss franc", "", "centime", "centimes"), "ZAR": _money("rand", "rand"),
    "NZD": _money("New Zealand dollar"),
    "HKD": _money("Hong Kong dollar"), "SGD": _money("Singapore dollar"),
    "BRL": _money("real", "reais", "centavo", "centavos"),
}  # fmt: skip


def _units(text: str) -> dict[str, tuple[str, str]]:
    """Lines of "ft = foot, feet"; without a second name the plural adds an s."""
    out = {}
    for line in text.strip().splitlines():
        written, _, names = line.partition("=")
        one, _, many = names.strip().partition(", ")
        article = "one"
        for unit in written.split(","):
            out[unit.strip()] = (f"{article} {one}", many or f"{one}s")
    return out


UNITS = _units("""
km, kms = kilometer
cm, cms = centimeter
mm = millimeter
nm = nanometer
m = meter
kg, kgs = kilogram
g = gram
mg = milligram
dl, dL = deciliter
µg, μg, mcg = microgram
lb, lbs = pound
oz = ounce
ft = foot, feet
yd, yds = yard
mi = mile
mph = mile per hour, miles per hour
km/h, kph, kmh = kilometer per hour, kilometers per hour
m/s = meter per second, meters per second
m/s², m/s2 = meter per second squared, meters per second squared
cu ft, cu. ft = cubic foot, cubic feet
°c = degree Celsius, degrees Celsius
°f = degree Fahrenheit, degrees Fahrenheit
°k = kelvin, kelvins
° = degree
% = percent, percent
kb = kilobyte
mb = megabyte
gb = gigabyte
tb = terabyte
mbps, mbit/s = megabit per second, megabits per second
kbps, Kbps, kbit/s, Kb/s = kilobit per second, kilobits per second
Mb/s = megabit per second, megabits per second
Gb/s = gigabit per second, gigabits per second
gbps, gbit/s = gigabit per second, gigabits per second
hz = hertz, hertz
khz = kilohertz, kilohertz
mhz = megahertz, megahertz
ghz = gigahertz, gigahertz
db = decibel
ms = millisecond
s, sec, secs = second
min, mins = minute
h, hr, hrs = hour
yr, yrs = year
wk, wks = week
kw = kilowatt
kwh = kilowatt hour
mw = megawatt
ml = milliliter
cl = centiliter
l, L = liter
gal = gallon
tsp = teaspoon
tbsp = tablespoon
px = pixel
pts = point
kcal = kilocalorie
V = volt
W = watt
mAh = milliamp hour
fps = frame per second, frames per second
ppm = part per million, parts per million
cal = calorie
mph = mile per hour, miles per hour
rpm = revolution per minute, revolutions per minute
psi = pound per square inch, pounds per square inch
m², m2, sqm = square meter
km², km2 = square kilometer
cm², cm2 = square centimeter
ft², ft2, sqft, sq ft, sq. ft = square foot, square feet
m³, m3 = cubic meter
cm³, cm3 = cubic centimeter
""")
PERIODS = {
    "mo": "month", "mth": "month", "yr": "year", "y": "year", "wk": "week", "w": "week", "d": "day",
    "hr": "hour", "h": "hour",
    "min": "minute", "sec": "second", "s": "second", "ea": "each", "pp": "person", "kg": "kilogram",
    "lb": "pound", "l": "liter",
    "gal": "gallon", "sqft": "square foot", "m²": "square meter", "km": "kilometer", "mi": "mile",
    "oz": "ounce", "kwh": "kilowatt hour",
    "gb": "gigabyte", "g": "gram",
}  # fmt: skip
SYMBOLS = {
    "&": "and", "@": "at", "+": "plus", "=": "equals", "<": "less than", ">": "greater than",
    "≤": "at most", "≥": "at least",
    "≈": "about", "~": "about", "≠": "is not equal to", "±": "plus or minus", "×": "times",
    "·": "times", "÷": "divided by", "→": "to",
    "->": "to", "=>": "to", "<=": "at most", ">=": "at least", "&&": "and", "==": "equals",
    "!=": "is not", "√": "square root of",
    "∞": "infinity", "π": "pi", "§": "section", "²": "squared", "³": "cubed", "%": "percent",
    "‰": "per mille", "°": "degrees",
    "©": "copyright", "w/": "with", "w/o": "without", "c/o": "care of", "b/c": "because",
    "n/a": "not applicable", "№": "number",
}  # fmt: skip
STATES = {
    "AL": "Alabama", "AK": "Alaska", "AZ": "Arizona", "AR": "Arkansas", "CA": "California",
    "CO": "Colorado", "CT": "Connecticut", "DE": "Delaware", "FL": "Florida", "GA": "Georgia",
    "HI": "Hawaii", "ID": "Idaho", "IL": "Illinois", "IN": "Indiana", "IA": "Iowa",
    "KS": "Kansas", "KY": "Kentucky", "LA": "Louisiana", "ME": "Maine", "MD": "Maryland",
    "MA": "Massachusetts", "MI": "Michigan", "MN": "Minnesota", "MS": "Mississippi",
    "MO": "Missouri", "MT": "Montana", "NE": "Nebraska", "NV": "Nevada", "NH": "New Hampshire",
    "NJ": "New Jersey", "NM": "New Mexico", "NY": "New York", "NC": "North Carolina",
    "ND": "North Dakota", "OH": "Ohio", "OK": "Oklahoma", "OR": "Oregon", "PA": "Pennsylvania",
    "RI": "Rhode Island", "SC": "South Carolina", "SD": "South Dakota", "TN": "Tennessee",
    "TX": "Texas", "UT": "Utah", "VT": "Vermont", "VA": "Virginia", "WA": "Washington",
    "WV": "West Virginia", "WI": "Wisconsin", "WY": "Wyoming", "DC": "D C",
}  # fmt: skip
LITTLE = (
    "to for if now and or when at in on from with by as is are was were the a an then but so"
    " please immediately right using via this "
    "that before after until till since of it you we they he she i be can will would should must"
    " may not into over under through "
    "today tonight tomorrow yesterday again instead here there how who why what which while"
    " because unless"
)


def year(digits: str) -> str:
    """Four digits as a year: "nineteen eighty four"."""
    value = int(digits)
    if 2000 <= value < 2010:
        return (number_words(value, "en") or digits).replace(" and", "")
    high, low = divmod(value, 100)
    if low == 0 and high % 10 == 0:
        return number_words(value, "en") or digits
    tail = "hundred" if low == 0 else f"oh {_DIGITS[low]}" if low < 10 else number_words(low, "en")
    return f"{number_words(high, 'en')} {tail}"


def _date(day: int, month: int, written: str | None, before: str) -> str:
    said = f"{MONTHS[month - 1]} {number_words(day, 'en', 'ordinal') or day}"
    if written is None:
        return said
    return f"{said} {year(written if len(written) == 4 else f'20{written}')}"


def _clock(hour: int, minute: int, named: bool) -> str:
    """`named`: a word after it (am, pm) shows that it is a time."""
    said = number_words(hour, "en") or str(hour)
    if minute:
        low = f"oh {_DIGITS[minute]}" if minute < 10 else number_words(minute, "en")
        return f"{said} {low}"
    if named:
        return said
    return f"{said} o'clock" if 1 <= hour <= 12 else f"{said} hundred"


def _ordinal(value: int, form: str) -> str:
    if form not in ("st", "nd", "rd", "th"):
        return ""
    return number_words(value, "en", "ordinal") or f"{value}{form}"


LANGUAGE = Language(
    code="en",
    decimals={".": "point"},
    groups=",'",
    out_of="out of",
    digits=_DIGITS,
    to="to",
    times="times",
    by="by",
    over="over",
    number="number",
    squared="squared",
    cubed="cubed",
    power="to the power of {}",
    times_ten="times ten to the power of",
    currencies=CURRENCIES,
    money=" and ",
    names_cents=True,
    units=UNITS,
    periods=PERIODS,
    per="per",
    scales={"k": "thousand", "K": "thousand", "M": "million", "bn": "billion", "mn": "million",
    "mil": "million", "tn": "trillion", "Cr": "crore", "cr": "crore"},
    money_scales={"L": "lakh", "m": "million", "b": "billion", "B": "billion", "t": "trillion",
    "T": "trillion", "MM": "million", "Bn": "billion"},
    scale_words=word_set("hundred thousand million billion trillion lakh crore"),
    months=MONTHS,
    month_names=MONTH_NAMES,
    codes=word_set(
        "code pin zip otp postcode passcode password extension ext ext. x cvv cvc ssn tan iban"
        " tracking confirmation verification passcode: "
        "zipcode imei vin tel tel. fax"
    ),
    maybe_codes=word_set(
        "number id room flight account order reference ref case ticket invoice phone mobile"
        " telephone booking license policy serial ending ends digits box"
    ),
    links=word_set("of is was are in with number code no no. id :"),
    dials=word_set("reply respond call text dial ring phone texting calling dialing dialed dialled"
    " texted message sms"),
    dial_links=word_set("the at on or and either to"),
    emergency=word_set("911"),
    little_words=word_set(LITTLE),
    date=_date,
    clock=_clock,
    ordinal=_ordinal,
    symbols=SYMBOLS,
    lone_currencies={"€": "euros", "$": "dollars", "£": "pounds", "₹": "rupees", "¥": "yen"},
    operations={"*": "times", "/": "divided by", "-": "minus", "x": "by"},
    address=("dot", "slash", "at", "dash", "underscore"),
    keys={"*": "star", "#": "pound"},
)  # fmt: skip
