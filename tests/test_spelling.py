"""Numbers and the like as words."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orpheus_plugin.numerals import number_words
from orpheus_plugin.spelling import spell


def say(text: str, language: str = "en") -> str:
    return " ".join(spell(text.split(), language))


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
        ("Jan. 1st", "Jan. first"),
        ("2024-03-05", "March fifth twenty twenty four"),
        ("3/15/2024", "March fifteenth twenty twenty four"),
        ("in 1984.", "in nineteen eighty four."),
        ("in 2005", "in two thousand five"),
        ("the 1990s", "the nineteen nineties"),
        ("1st 2nd 3rd 21st", "first second third twenty first"),
        ("1/2", "one half"),
        ("3/4", "three quarters"),
        ("1½", "one and a half"),
        ("24/7", "twenty four seven"),
        ("555-123-4567", "five five five, one two three, four five six seven"),
        ("+1-555-123-4567", "plus one, five five five, one two three, four five six seven"),
        ("(555) 123-4567", "(five five five) one two three, four five six seven"),
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
def test_english(text: str, spoken: str) -> None:
    assert say(text) == spoken


@pytest.mark.parametrize(
    ("language", "text", "spoken"),
    [
        ("de", "25 Prozent", "fünfundzwanzig Prozent"),
        ("de", "am 3. März", "am 3. März"),
        ("de", "3,5 kosten 10€", "drei Komma fünf kosten zehn Euro"),
        ("fr", "25%", "vingt-cinq pour cent"),
        ("es", "2.000 casas", "dos mil casas"),
        ("it", "3,5", "tre virgola cinque"),
        ("ko", "25%", "이십오 퍼센트"),
        ("hi", "25", "25"),
        ("zh", "25", "25"),
        ("xx", "25", "25"),
    ],
)
def test_other_languages(language: str, text: str, spoken: str) -> None:
    assert say(text, language) == spoken


def test_without_the_number_library_digits_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    number_words.cache_clear()
    monkeypatch.setitem(sys.modules, "num2words", None)
    assert say("25 cats and 3rd $5") == "25 cats and 3 5 dollars"
    number_words.cache_clear()


@given(
    st.lists(st.text("0123456789.,:/-+$€%°#()ab½²'\" STndrhkmpK", max_size=24), max_size=6),
    st.sampled_from(["en", "de", "ko"]),
)
@settings(max_examples=300, deadline=None)
def test_anything_is_taken_and_each_word_keeps_its_place(words: list[str], language: str) -> None:
    out = spell(words, language)
    assert len(out) == len(words)
    assert all(word or not given for given, word in zip(words, out, strict=True))
