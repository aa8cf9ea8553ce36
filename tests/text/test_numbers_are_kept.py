"""No number is read wrongly, whatever stands around it: its digits are all there, in order."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orpheus_plugin.evaluation.judge import words
from orpheus_plugin.text import TextOptions, UtteranceCutter
from orpheus_plugin.text.numerals import number_words


def read(text: str, language: str = "en") -> str:
    cutter = UtteranceCutter(TextOptions(language=language, first_clause_chars=0))
    return " ".join(u.text for u in [*cutter.push(text), *cutter.flush()])


def digits_heard(spoken: str) -> str:
    """The digits in English words, one after the other."""
    plain = re.sub(r"\b(?:oh|zero)\b", "0", spoken)
    return "".join(word for word in words(plain) if word.isdigit())


def ordinal(value: int) -> str:
    return str(number_words(value, "en", "ordinal"))


def grouped(value: int) -> str:
    return f"{value:,}"


def indian(value: int) -> str:
    head, tail = divmod(value, 1000)
    if not head:
        return str(value)
    pairs = re.sub(r"(?<=\d)(?=(?:\d\d)+$)", ",", str(head))
    return f"{pairs},{tail:03}"


AROUND = [
    "We have {} of them.", "We have {}.", "({})", "\"{}\"", "{}+ users", "${}", "${}+", "{} USD",
    "US${}", "€{}", "{}€", "£{}/mo", "{}/month",
    "₹{}", "Rs. {}", "{}%", "{} %", "{}x faster", "{}×", "{} kg", "{}kg", "{} °C", "{}°F", "-{}",
    "- is {}", "+{}", "~{}", "<{}", ">= {}", "≥{}",
    "{}, then more", "{}; then", "{}? yes", "{}!", "x={}", "**{}**", "_{}_", "{} people/day",
    "#{} of them", "No. {}", "{}km/h", "{}...", "{}:",
    "it's {}-ish", "{}-fold", "a {}-day trip", "abc{}", "{}abc", "{} m²", "~{} MB", "¥{}", "CHF {}",
    "{}¢", "«{}»",
    "AU$ {}", "R$ {}", "{} AED", "+/- {}", "±{}", "~${}", "({}%)", "{} req/min", "{}º", "{}˚ F",
    "{}/month", "x-{}", "=-{}", "{}\"",
    "*waves* {}", "[{} items]", "order #{}!", "{}/-", "{} ft. tall",
    "in {} yrs.", "Fig. {}", "p. {}",
]  # fmt: skip


@given(
    st.sampled_from(AROUND),
    st.one_of(st.integers(2, 99), st.integers(100, 999_999)).filter(lambda n: n % 1000 != 0),
    st.sampled_from([grouped, indian, str]),
)
@settings(max_examples=250, deadline=None)
def test_a_whole_number_keeps_its_digits(around: str, value: int, write: object) -> None:
    spoken = read(around.format(write(value)))  # type: ignore[operator]
    assert digits_heard(spoken) == str(value)


@given(
    st.sampled_from(AROUND),
    st.integers(0, 9_999),
    st.text("0123456789", min_size=1, max_size=4).filter(lambda f: len(f) != 2),
)
@settings(max_examples=120, deadline=None)
def test_a_decimal_keeps_its_digits(around: str, whole: int, fraction: str) -> None:
    spoken = read(around.format(f"{whole}.{fraction}"))
    heard = digits_heard(spoken)
    assert heard == f"{whole}{fraction}"


@given(
    st.integers(2, 2100), st.integers(2, 120), st.sampled_from(["{}/{}", "{}/{} of it", "({}/{})"])
)
@settings(max_examples=150, deadline=None)
def test_two_numbers_with_a_stroke_keep_their_digits(top: int, bottom: int, around: str) -> None:
    """Dates and the names of halves, quarters and idioms aside."""
    if bottom in (2, 4) or (top <= 12 and bottom <= 31) or (top, bottom) == (50, 50):
        return
    names = {ordinal(n): str(n) for n in range(3, 21)}
    spoken = " ".join(
        names.get(word.removesuffix("s"), word) for word in read(around.format(top, bottom)).split()
    )
    assert digits_heard(spoken) == f"{top}{bottom}"


@given(
    st.lists(st.tuples(st.integers(0, 99_999),
    st.sampled_from([" then ", "+", "=", "abc", " so x", "%then"])), min_size=1, max_size=4)
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_text_that_no_rule_knows_is_read_in_order(parts: list[tuple[int, str]]) -> None:
    text = "".join(f"{value}{mark}" for value, mark in parts)
    assert digits_heard(read(text)) == "".join(str(value) for value, _ in parts)


@given(st.text("0123456789abcXYZ.,:;-+/=%$€#()<>'\"^*~ °½", max_size=30))
@settings(max_examples=120, deadline=None)
def test_every_word_with_a_digit_is_spoken(text: str) -> None:
    """Links and footnotes aside, each word with a digit is spoken, and no figure reaches the
    model."""
    cutter = UtteranceCutter(TextOptions(first_clause_chars=0))
    for utterance in [*cutter.push(text), *cutter.flush()]:
        assert not any(c.isdecimal() for c in utterance.text)
        spoken = [word for word in utterance.words if word.spoken]
        assert spoken


OTHERS = {
    "de": ["Es sind {} da.", "({})", "{} €", "{}€", "{} kg", "{} %", "-{} Grad", "{}+ Leute",
    "{} km/h", "~{}", "{}!", "<{}", "{} Mio. Euro", "x={}"],
    "fr": ["Il y a {} places.", "({})", "{} €", "{}€", "{} kg", "{} %", "-{} °C", "{}+ gens",
    "{} km/h", "~{}", "{} !", "n° {}", "x={}"],
    "es": ["Hay {} puestos.", "({})", "{} €", "{}€", "{} kg", "{} %", "-{} °C", "{}+ personas",
    "{} km/h", "~{}", "¡{}!", "nº {}", "x={}"],
    "it": ["Sono {} posti.", "({})", "{} €", "{}€", "{} kg", "{} %", "-{} °C", "{}+ persone",
    "{} km/h", "~{}", "{}!", "n. {}", "x={}"],
}  # fmt: skip


@pytest.mark.parametrize("language", list(OTHERS))
@given(data=st.data())
@settings(max_examples=120, deadline=None)
def test_a_number_is_whole_in_other_languages(language: str, data: st.DataObject) -> None:
    value = data.draw(
        st.integers(2, 999_999).filter(lambda n: n % 10 != 1 and not 1100 <= n < 2000)
    )
    around = data.draw(st.sampled_from(OTHERS[language]))
    written = data.draw(st.sampled_from([str(value), f"{value:,}".replace(",", ".")]))
    words = number_words(value, language)
    assert words is not None
    assert words in read(around.format(written), language)


@pytest.mark.parametrize("language", ["en", *OTHERS])
@given(code=st.text("0123456789", min_size=2, max_size=9))
@settings(max_examples=60, deadline=None)
def test_leading_zeros_are_spoken_in_every_language(language: str, code: str) -> None:
    names = (
        "oh" if language == "en" else number_words(0, language),
        *(number_words(n, language) for n in range(1, 10)),
    )
    spoken = read(f"0{code}", language).rstrip(".").split()
    assert spoken == [str(names[int(digit)]) for digit in f"0{code}"]


@given(
    st.sampled_from(["am {}. Mai", "der {}. Platz", "vom {}. bis 31. Mai", "in der {}. Woche",
    "ein {}. Versuch", "Heute ist der {}."]),
    st.integers(1, 30),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_german_ordinals_are_not_read_as_cardinals(around: str, value: int) -> None:
    assert str(number_words(value, "de", "ordinal")) in read(around.format(value), "de")


@given(
    st.sampled_from(["casa", "hora", "persona", "página", "semana", "canción", "ciudad", "mujer",
    "vez", "libra"]),
    st.integers(1, 999).filter(lambda n: (n % 10 == 1 and n % 100 != 11) or n >= 200),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_spanish_numbers_agree_with_what_they_count(noun: str, value: int) -> None:
    many = {"canción": "canciones", "ciudad": "ciudades", "mujer": "mujeres", "vez": "veces"}
    said = read(f"{value} {noun if value == 1 else many.get(noun, noun + 's')}", "es").rpartition(
        " "
    )[0]
    assert not re.search(r"uno$|ún$|\bun$|ientos\b", said)
    masculine = read(f"{value} {'libro' if value == 1 else 'libros'}", "es")
    assert not re.search(r"una |ientas", masculine)
