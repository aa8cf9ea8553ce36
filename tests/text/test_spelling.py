"""Numbers and the like as words."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orpheus_plugin.text.languages import language as language_of
from orpheus_plugin.text.numerals import number_words
from orpheus_plugin.text.spelling import spell


def say(text: str, language: str = "en") -> str:
    return " ".join(said for said in spell(text.split(), language_of(language)) if said)


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("25", "twenty five"),
        ("1,234 people", "one thousand two hundred and thirty four people"),
        ("3.14", "three point one four"),
        ("0.05", "zero point zero five"),
        ("-5", "minus five"),
        ("$5", "five dollars"),
        ("$1", "one dollar"),
        ("$12.50", "twelve dollars and fifty cents"),
        ("$0.99,", "ninety nine cents,"),
        ("$3.5 million today", "three point five million dollars today"),
        ("$20k", "twenty thousand dollars"),
        ("$9.99/month", "nine dollars and ninety nine cents per month"),
        ("€5 or 5€ or 5 EUR", "five euros or five euros or five euros"),
        ("£1,200", "one thousand two hundred pounds"),
        ("75%", "seventy five percent"),
        ("(+2.5%)", "(plus two point five percent)"),
        ("5:30", "five thirty"),
        ("at 5:00", "at five o'clock"),
        ("at 5:00 pm.", "at five P M."),
        ("at 5:30pm", "at five thirty P M"),
        ("at 7 a.m. sharp", "at seven A M sharp"),
        ("14:05", "fourteen oh five"),
        ("March 3, 2024", "March third, twenty twenty four"),
        ("on 3 March 1999", "on the third of March nineteen ninety nine"),
        ("Jan. 1st", "January first"),
        ("Fri. Nov. 28", "Friday November twenty eighth"),
        ("We sat. 5 did not.", "We sat. five did not."),
        ("2024-03-05", "March fifth twenty twenty four"),
        ("3/15/2024", "March fifteenth twenty twenty four"),
        ("in 1984.", "in nineteen eighty four."),
        ("Gandhi (1869-1948)", "Gandhi (eighteen sixty nine to nineteen forty eight)"),
        ("the Revolution (1789)", "the Revolution (seventeen eighty nine)"),
        ("(born 1869)", "(born eighteen sixty nine)"),
        ("many seats (1200)", "many seats (one thousand two hundred)"),
        ("in 2005", "in two thousand five"),
        ("the 1990s", "the nineteen nineties"),
        ("1st 2nd 3rd 21st", "first second third twenty first"),
        ("1/2", "one half"),
        ("3/4", "three quarters"),
        ("1½", "one and a half"),
        ("24/7", "twenty four seven"),
        ("9/11", "nine eleven"),
        ("493/500", "four hundred and ninety three over five hundred"),
        ("555-123-4567", "five five five, one two three, four five six seven"),
        ("+1-555-123-4567", "plus one, five five five, one two three, four five six seven"),
        ("(555) 123-4567", "five five five, one two three, four five six seven"),
        (
            "+44 20 7946 0958, please",
            "plus four four, two oh, seven nine four six, oh nine five eight, please",
        ),
        ("Call 555 123 4567.", "Call five five five, one two three, four five six seven."),
        ("Add 200 300 400", "Add two hundred three hundred four hundred"),
        ("Your code is 493027.", "Your code is four nine three oh two seven."),
        ("the order number is 48213", "the order number is four eight two one three"),
        ("The number is 5000", "The number is five thousand"),
        ("978-3-16-148410-0", "nine seven eight, three, one six, one four eight four one oh, oh"),
        ("order 48213377", "order four eight two one three three seven seven"),
        ("code 0042", "code oh oh four two"),
        ("5-10", "five to ten"),
        ("1.2.3", "one point two point three"),
        ("v2.1", "version two point one"),
        ("5kg", "five kilograms"),
        ("1 kg", "one kilogram"),
        ("100 km/h", "one hundred kilometers per hour"),
        ("-5°C", "minus five degrees Celsius"),
        ("16GB", "sixteen gigabytes"),
        ("#7", "number seven"),
        ("No. 5", "number five"),
        ("GPT-4", "G P T four"),
        ("API", "A P I"),
        ("GPUs", "G P Us"),
        ("NASA", "NASA"),
        ("U.S.A.", "U S A."),
        ("Dr. Smith", "Doctor Smith"),
        ("St. James", "Saint James"),
        ("221 Baker St. in town", "two hundred and twenty one Baker Street in town"),
        ("on Main St. London", "on Main Street. London"),
        ("at 5th Ave. too", "at fifth Avenue too"),
        ("Penn Ave. NW", "Penn Avenue N W"),
        ("1 tsp. of salt", "one teaspoon of salt"),
        ("40 min. before. It is 5 kg. Then", "forty minutes before. It is five kilograms. Then"),
        ("e.g. this, etc.", "for example this, et cetera."),
        ("cats vs. dogs", "cats versus dogs"),
        ("I am fine.", "I am fine."),
        ("9:00-17:00", "nine o'clock to seventeen hundred"),
        ("open 9am-5pm", "open nine A M to five P M"),
        ("a 10-year-old", "a ten year old"),
        ("1980s-style", "nineteen eighties style"),
        ("in the 80s for 30s", "in the eighties for thirty seconds"),
        ("5G and 4K", "five G and four K"),
        ("5'10", "five foot ten"),
        ("6ft 2in", "six feet two inches"),
        ("1 1/2 cups", "one and a half cups"),
        ("50/50", "fifty fifty"),
        ("1000000", "one million"),
        ("5M users", "five million users"),
        ("the U.K. is", "the U K is"),
        ("at 5 p.m. Then", "at five P M. Then"),
        ("Nice (50%)", "Nice (fifty percent)"),
    ],
)
def test_english_numbers_are_spelled(text: str, spoken: str) -> None:
    assert say(text) == spoken


@pytest.mark.parametrize(
    ("language", "text", "spoken"),
    [
        ("de", "25 Prozent", "fünfundzwanzig Prozent"),
        ("de", "am 3. März", "am dritten März"),
        ("de", "3,5 kosten 10€", "drei Komma fünf kosten zehn Euro"),
        ("de", "um 14:30 Uhr.", "um vierzehn Uhr dreißig."),
        ("de", "ab 1:00", "ab ein Uhr"),
        ("fr", "25%", "vingt-cinq pour cent"),
        ("fr", "1 249,99 €, non", "mille deux cent quarante-neuf euros quatre-vingt-dix-neuf, non"),
        ("fr", "à 15h30 ou 9h", "à quinze heures trente ou neuf heures"),
        ("fr", "le 1er et le 2e", "le premier et le deuxième"),
        ("es", "las 15:30", "las quince y treinta"),
        ("es", "2.000 casas", "dos mil casas"),
        ("it", "3,5", "tre virgola cinque"),
        ("ko", "25%", "이십오 퍼센트"),
        ("ko", "12,000원 3.5%", "만 이천원 삼 점 오 퍼센트"),
        ("hi", "25", "25"),
        ("zh", "25", "25"),
        ("xx", "25", "25"),
    ],
)
def test_numbers_of_other_languages_are_spelled(language: str, text: str, spoken: str) -> None:
    assert say(text, language) == spoken


def test_without_the_number_library_digits_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    number_words.cache_clear()
    monkeypatch.setitem(sys.modules, "num2words", None)
    assert say("25 cats and 3rd $5") == "25 cats and 3rd 5 dollars"
    number_words.cache_clear()


@given(
    st.lists(
        st.text("0123456789.,:/-+$€%°#()ab½²'\" STndrhkmpK", max_size=24).map(str.strip),
        max_size=6,
    ),
    st.sampled_from(["en", "de", "ko"]),
)
@settings(max_examples=300, deadline=None)
def test_any_text_is_accepted_and_each_word_keeps_its_place(
    words: list[str], language: str
) -> None:
    out = spell(words, language_of(language))
    assert len(out) == len(words)
    assert all(word or not given for given, word in zip(words, out, strict=True))
