"""What agents write and must be read rightly, kind by kind, through the whole front end, streamed
in small pieces."""

from __future__ import annotations

import pytest

from orpheus_plugin.text import TextOptions, UtteranceCutter

TAGS = frozenset({"laugh", "chuckle", "sigh", "cough"})


def read(text: str, language: str = "en") -> str:
    cutter = UtteranceCutter(TextOptions(language=language, tags=TAGS, first_clause_chars=0))
    out = [u for i in range(0, len(text), 3) for u in cutter.push(text[i : i + 3])]
    return " ".join(utterance.text for utterance in [*out, *cutter.flush()])


ENGLISH = {
    "numbers with a prefix or suffix": [
        ("Over 12,500+ tickets", "Over twelve thousand five hundred plus tickets."),
        ("a $3,000+ bill", "a three thousand dollar plus bill."),
        ("It is 1,500x as fast", "It is one thousand five hundred times as fast."),
        ("7,250/year or $15/hr", "seven thousand two hundred and fifty per year or fifteen dollars"
        " per hour."),
        ("US$40 and A$7", "forty U S dollars and seven Australian dollars."),
        ("$12/user/mo", "twelve dollars per user per month."),
        ("10,000s of them, $1,000s", "ten thousands of them, thousands of dollars."),
        ("a $20 note and $5-million", "a twenty dollar note and five million dollars."),
        ("3 times/week", "three times per week."),
    ],
    "Indian grouping and rupees": [
        ("₹2,50,000", "two hundred and fifty thousand rupees."),
        ("Rs. 12,34,567", "one million two hundred and thirty four thousand five hundred and sixty"
        " seven rupees."),
        ("Rs 99.50 or 5 INR", "ninety nine rupees and fifty paise or five rupees."),
        ("10,00,000 people", "one million people."),
    ],
    "ranges": [
        ("20–25 °C", "twenty to twenty five degrees Celsius."),
        ("3-5kg", "three to five kilograms."),
        ("from 7-9am", "from seven to nine A M."),
        ("$2.5M-$3M", "two point five million to three million dollars."),
        ("$20-30", "twenty to thirty dollars."),
        ("5%-7%", "five to seven percent."),
        ("pages 10 - 12", "pages ten to twelve."),
        ("2015-2019", "twenty fifteen to twenty nineteen."),
    ],
    "degree signs": [
        ("72 ºF", "seventy two degrees Fahrenheit."),
        ("-5˚C", "minus five degrees Celsius."),
        ("30℃ or 86℉", "thirty degrees Celsius or eighty six degrees Fahrenheit."),
        ("a 45° turn", "a forty five degree turn."),
        ("18° C", "eighteen degrees Celsius."),
    ],
    "signs, points and comparisons": [
        ("It was - 3.5 then", "It was minus three point five then."),
        ("a low of −12", "a low of minus twelve."),
        (".75 inches", "point seven five inches."),
        ("if <18 or >65", "if less than eighteen or greater than sixty five."),
        ("≥3 and ≤9", "at least three and at most nine."),
        ("~200 people", "about two hundred people."),
        ("+5 today", "plus five today."),
        ("It went up. > 5 is much", "It went up. greater than five is much."),
        ("for <3 years", "for less than three years."),
    ],
    "codes": [
        ("Your OTP: 7741", "Your O T P: seven seven four one."),
        ("The PIN is 0090.", "The P I N is oh oh nine oh."),
        ("ZIP 60601", "ZIP six oh six oh one."),
        ("Denver, CO 80202", "Denver, Colorado eight oh two oh two."),
        ("Boston, MA 02139-1234.", "Boston, Massachusetts oh two one three nine, one two three"
        " four."),
        ("Dial 999 now.", "Dial nine nine nine now."),
        ("text JOIN to 38470", "text JOIN to three eight four seven oh."),
        ("call 200 people", "call two hundred people."),
        ("dial *67", "dial star six seven."),
        ("SKU 12-345-6, INV-24-001", "SKU one two, three four five, six, INV twenty four oh oh"
        " one."),
        ("My number is 98 76 54 32", "My number is nine eight, seven six, five four, three two."),
    ],
    "fractions and powers": [
        ("\\frac{3}{8} of it", "three over eight of it."),
        ("$\\frac{a}{b}$", "a over b."),
        ("\\sqrt{9} \\times 2", "square root of nine times two."),
        ("n^3 or 2^{10}", "n cubed or two to the power of ten."),
        ("10⁻³ m²", "ten to the power of minus three m squared."),
        ("2.5e6", "two point five times ten to the power of six."),
        ("6'1\" tall", "six foot one tall."),
        ("2⅓ cups", "two and a third cups."),
        ("e^x = 2x^2+1", "e to the power of x equals two x squared plus one."),
    ],
    "short forms": [
        ("the '80s", "the eighties."),
        ("90's hits, mid-70s, the 1,000th", "nineties hits, mid seventies, the one thousandth."),
        ("2nd/3rd floor", "second third floor."),
        ("tea w/o milk, w/ honey", "tea without milk, with honey."),
        ("an A/B test in C#", "an A B test in C sharp."),
        (".NET and C++", "dot net and C plus plus."),
        ("5 GB/day", "five gigabytes per day."),
    ],
    "Roman numerals": [
        ("World War I ended.", "World War one ended."),
        ("Queen Elizabeth II", "Queen Elizabeth the second."),
        ("Louis XVI and Henry VIII", "Louis the sixteenth and Henry the eighth."),
        ("Chapter IX", "Chapter nine."),
        ("Rocky IV", "Rocky four."),
        ("a CD and a DVD", "a C D and a D V D."),
        ("George I think", "George I think."),
        ("Henry the VIII in WWII", "Henry the eighth in World War two."),
    ],
    "acronyms": [
        ("the FBI's case", "the F B I's case."),
        ("two ATMs, three PCs", "two A T Ms, three P Cs."),
        ("NASA's plan", "NASA's plan."),
        ("our CEO's car", "our C E O's car."),
    ],
    "stressed capitals": [
        ("I AM here.", "I am here."),
        ("Do IT", "Do it."),
        ("PSST, HMM.", "psst, hmm."),
        ("Meet at 5 AM", "Meet at five A M."),
        ("the IT team in the US", "the I T team in the U S."),
    ],
    "streets and titles": [
        ("9 Oak Dr. is mine", "nine Oak Drive is mine."),
        ("Dr. Oak lives at 9 Elm Dr.", "Doctor Oak lives at nine Elm Drive."),
        ("on Lake Rd. and 5th Ave.", "on Lake Road and fifth Avenue."),
        ("12 Hill St, upstairs", "twelve Hill Street, upstairs."),
        ("St. Mary and Mr. Hill", "Saint Mary and Mister Hill."),
        ("Ft. Worth, St. Louis", "Fort Worth, Saint Louis."),
    ],
    "months only beside a day": [
        ("a 7% APR.", "a seven percent A P R."),
        ("on Mar. 5", "on March fifth."),
        ("Dec 24th", "December twenty fourth."),
        ("We sat 5 hours", "We sat five hours."),
        ("I may win 5", "I may win five."),
    ],
    "stage directions": [
        ("*laughs* Yes", "<laugh> Yes."),
        ("Well (sighs) no", "Well <sigh> no."),
        ("Oh [coughing] no", "Oh <cough> no."),
        ("<chuckling> Sure", "<chuckle> Sure."),
        ("*smiles warmly* Hi", "Hi."),
        ("*clears throat* So", "So."),
        ("_sighs_ *laughs and looks away* No", "<sigh> <laugh> No."),
        ("This is *really* good", "This is really good."),
        ("You make me *laugh*", "You make me laugh."),
        ("Rest (coughing spreads germs) now", "Rest, coughing spreads germs, now."),
    ],
}  # fmt: skip
OTHERS = {
    "de": [
        ("am 03.10.2024", "am dritten Oktober zweitausendvierundzwanzig."),
        ("der 1.5. ist frei", "der erste Mai ist frei."),
        ("am 24. Dezember", "am vierundzwanzigsten Dezember."),
        ("9:30-11:00 Uhr", "neun Uhr dreißig bis elf Uhr."),
        ("um 18.45 Uhr", "um achtzehn Uhr fünfundvierzig."),
        ("8-12 Uhr", "acht bis zwölf Uhr."),
        ("-12 Grad, −3,5 °C", "minus zwölf Grad, minus drei Komma fünf Grad Celsius."),
        ("1.299,00 €", "eintausendzweihundertneunundneunzig Euro."),
        ("3,99€", "drei Euro neunundneunzig."),
        ("0,50 € je Stück", "fünfzig Cent je Stück."),
        ("Telefon 089 123456", "Telefon null acht neun, eins zwei drei vier fünf sechs."),
        ("PLZ 01067", "PLZ null eins null sechs sieben."),
        ("im Jahr 1989", "im Jahr neunzehnhundertneunundachtzig."),
        ("5 Mio. €", "fünf Millionen Euro."),
        ("1.000.000", "eine Million."),
        ("Heinrich IV. kam", "Heinrich der Vierte kam."),
        ("*seufzt* Ja", "<sigh> Ja."),
    ],
    "fr": [
        ("le 14/07/2024", "le quatorze juillet deux mille vingt-quatre."),
        ("le 1er mai", "le premier mai."),
        ("14h-16h30", "quatorze heures à seize heures trente."),
        ("-5 °C", "moins cinq degrés Celsius."),
        ("3 450,20 €", "trois mille quatre cent cinquante euros vingt."),
        ("9,99€", "neuf euros quatre-vingt-dix-neuf."),
        ("0,80 €", "quatre-vingts centimes."),
        ("06 01 02 03 04", "zéro six, zéro un, zéro deux, zéro trois, zéro quatre."),
        ("code 0007", "code zéro zéro zéro sept."),
        ("Louis XVI", "Louis seize."),
        ("(rires) Oui", "<laugh> Oui."),
    ],
    "es": [
        ("el 06/12/2023", "el seis de diciembre de dos mil veintitrés."),
        ("de 9:00-14:30", "de nueve a catorce y treinta."),
        ("-2 °C", "menos dos grados centígrados."),
        ("1.250,75 €", "mil doscientos cincuenta euros con setenta y cinco."),
        ("0,99 €", "noventa y nueve céntimos."),
        ("21 €", "veintiún euros."),
        ("código 0075", "código cero cero siete cinco."),
        ("612 345 678", "seis uno dos, tres cuatro cinco, seis siete ocho."),
        ("Felipe VI", "Felipe sexto."),
        ("*suspira* Bueno", "<sigh> Bueno."),
    ],
    "it": [
        ("il 25/04/2024", "il venticinque aprile duemilaventiquattro."),
        ("dalle 9:30-13:00", "dalle nove e trenta a tredici."),
        ("-7 °C", "meno sette gradi Celsius."),
        ("1.049,90 €", "millequarantanove euro e novanta."),
        ("0,50 €", "cinquanta centesimi."),
        ("CAP 00184", "CAP zero zero uno otto quattro."),
        ("tel. 06 5551234", "tel. zero sei, cinque cinque cinque uno due tre quattro."),
        ("Vittorio Emanuele III", "Vittorio Emanuele terzo."),
        ("(ride) Certo", "<laugh> Certo."),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("text", "spoken"), [case for cases in ENGLISH.values() for case in cases])
def test_english_kinds(text: str, spoken: str) -> None:
    assert read(text) == spoken


@pytest.mark.parametrize(
    ("language", "text", "spoken"),
    [(language, *case) for language, cases in OTHERS.items() for case in cases],
)
def test_kinds_in_other_languages(language: str, text: str, spoken: str) -> None:
    assert read(text, language) == spoken
