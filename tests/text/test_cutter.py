"""The cutter: what is spoken, when, and that nothing written is lost."""

from __future__ import annotations

import logging
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orpheus_plugin.errors import InvalidOptions
from orpheus_plugin.text.cutter import SpokenWord, TextOptions, Utterance, UtteranceCutter

PATIENT = TextOptions(first_clause_chars=0)
KOREAN = TextOptions(tags=frozenset({"작은 웃음", "한숨"}), language="ko")


def stream(text: str, size: int = 4, options: TextOptions | None = None) -> list[Utterance]:
    cutter = UtteranceCutter(options)
    out = [u for i in range(0, len(text), size) for u in cutter.push(text[i : i + size])]
    return out + cutter.flush()


def texts(text: str, size: int = 4, options: TextOptions | None = None) -> list[str]:
    return [utterance.text for utterance in stream(text, size, options)]


def said(text: str, options: TextOptions | None = None) -> str:
    """What is spoken, but for the full stop that is added to a text without an end mark."""
    spoken = " ".join(texts(text, 10_000, options))
    return spoken if text.rstrip("*_`)\"' \n")[-1:] in ".!?:" else spoken.rstrip(".।")


def written(utterances: list[Utterance]) -> str:
    return "".join(word.written for utterance in utterances for word in utterance.words)


# ---- when


def test_a_short_greeting_goes_at_flush() -> None:
    cutter = UtteranceCutter()
    assert cutter.push("Hi!") == []
    assert [u.text for u in cutter.flush()] == ["Hi!"]
    assert cutter.flush() == []


def test_a_first_sentence_goes_as_soon_as_its_end_is_certain() -> None:
    cutter = UtteranceCutter()
    assert cutter.push("Of course! ")[0].text == "Of course!"
    cutter = UtteranceCutter()
    assert cutter.push("I can do that.") == []
    assert cutter.push(" ") == []
    assert cutter.push("W")[0].text == "I can do that."


def test_a_long_first_sentence_is_cut_at_a_clause_while_it_arrives() -> None:
    cutter = UtteranceCutter()
    assert cutter.push("Well, I can certainly look into that") == []
    assert cutter.push(",") == []
    assert [u.text for u in cutter.push(" but")] == ["Well, I can certainly look into that,"]
    assert [u.text for u in cutter.push(" first I need your number, please, if you can. Then")] == [
        "but first I need your number, please, if you can."
    ]


def test_a_complete_first_sentence_is_not_cut_at_a_clause() -> None:
    text = "Well, I can certainly look into that, but first I need your number. Then we go."
    assert (
        texts(text, 1000)[0]
        == "Well, I can certainly look into that, but first I need your number."
    )


def test_a_first_sentence_without_any_mark_is_cut_before_a_conjunction_or_at_a_space() -> None:
    text = (
        "I would like to tell you everything about the history of our company and the people who"
        " made it what it is"
    )
    first = texts(text)[0]
    assert len(first) <= 100
    assert first.endswith("company,")


def test_a_tiny_first_sentence_is_joined_with_what_follows() -> None:
    assert texts("Hi! How are you today? I am fine.")[0] == "Hi! How are you today?"
    eager = TextOptions(first_sentence_chars=0)
    assert texts("Hi! How are you today?", options=eager)[0] == "Hi!"


def test_later_short_sentences_are_joined_and_long_ones_stand_alone() -> None:
    text = "I see that now. " + "It is fine. " * 30
    got = texts(text)
    assert got[0] == "I see that now."
    assert all(len(u) <= 160 for u in got)
    assert len(got[2]) > 60


def test_flush_can_be_followed_by_more_text() -> None:
    cutter = UtteranceCutter()
    assert [u.text for u in [*cutter.push("One moment"), *cutter.flush()]] == ["One moment."]
    assert [u.text for u in [*cutter.push("please."), *cutter.flush()]] == ["please."]


def test_release_hands_out_whole_sentences_and_keeps_the_unfinished_one() -> None:
    cutter = UtteranceCutter()
    assert cutter.push("I can do that. Yes. No. Then we wi")[0].text == "I can do that."
    assert [u.text for u in cutter.release()] == ["Yes. No."]
    assert [u.text for u in cutter.flush()] == ["Then we wi."]


@pytest.mark.parametrize(
    "text",
    [
        "Dr. Smith and Mr. Jones met at the St. James hotel, e.g. for tea with J. R. Tolkien and"
        " friends of the U.S. economy",
        "It costs 3.5 dollars or 1,000.25 at example.com and version 1.2.3 of it is at"
        " www.a.b.org/c.d?e=f.g for you",
        "Wait... what is that... I mean the thing over there which we saw when we were walking"
        " down",
        'He said "Really?" and then "Go!" to nobody in particular while the others were looking at'
        " him",
    ],
)
def test_no_sentence_ends_inside(text: str) -> None:
    options = TextOptions(first_clause_chars=0, spell_numbers=False, join_chars=1)
    assert len(texts(f"This is it. {text}. And more.", 1, options)) == 3


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ('He said "it is over." Then he left.', 'He said "it is over."'),
        ("It is done (for now.) Then he left.", "It is done, for now."),
        ("He left at 5 p.m. Then it rained.", "He left at 5 p.m."),
        ("Add 1 tsp. of salt. Stir.", "Add 1 tsp. of salt."),
        ("It is worth 3.5. Then what?", "It is worth 3.5."),
        ("We are all ok. Then what?", "We are all ok."),
        ("今天天气很好。我们走吧", "今天天气很好。"),
        ("मैं बिल्कुल ठीक हूँ। आप कैसे हैं?", "मैं बिल्कुल ठीक हूँ।"),
        ("أنا بخير اليوم؟ نعم", "أنا بخير اليوم؟"),
        ("That was great!😀 Then what?", "That was great!"),
        ("All lower case here. how are you", "All lower case here."),
    ],
)
def test_a_sentence_ends_here(text: str, first: str) -> None:
    assert texts(text, 1, TextOptions(first_clause_chars=0, spell_numbers=False))[0] == first


def test_lines_of_a_list_are_sentences_and_wrapped_lines_are_not() -> None:
    got = said("You need:\n- milk\n- **two** eggs\n\nThat is all you need")
    assert got == "You need: milk. two eggs. That is all you need"
    wrapped = "This line was wrapped by hand somewhere in the\nmiddle of the sentence."
    assert said(wrapped) == wrapped.replace("\n", " ")


# ---- length


def test_no_utterance_is_longer_than_the_limit_and_the_cut_is_at_a_good_place() -> None:
    clause = "and then we went down to the old river again, "
    got = texts("So. " + clause * 30)
    assert all(len(text) <= 280 for text in got)
    assert all(text.endswith(",") for text in got)


def test_a_huge_word_is_cut_and_no_character_is_lost() -> None:
    got = stream("a" * 2000)
    assert all(0 < len(u.text) <= 280 for u in got)
    assert "".join(u.text.rstrip(",.") for u in got) == "a" * 2000 == written(got)
    assert not got[0].words[0].space_after
    assert got[-1].words[-1].space_after


def test_a_mark_left_alone_by_a_hard_cut_is_not_an_utterance() -> None:
    got = stream("a" * 560 + ".")
    assert [(len(u.text), u.text[-1]) for u in got] == [
        (201, ","),
        (81, ","),
        (201, ","),
        (81, "."),
    ]
    assert [w.space_after for u in got for w in u.words] == [False, False, False, True]
    assert written(got) == "a" * 560 + "."


def test_numbers_written_out_count_towards_the_limit() -> None:
    got = stream("Codes: " + "777777 " * 30, options=TextOptions(max_chars=100, join_chars=60))
    assert all(len(u.text) <= 100 for u in got)
    assert written(got) == "Codes:" + "777777" * 30


# ---- tags


def test_known_tags_are_kept_for_the_model_and_are_not_words() -> None:
    (utterance,) = stream("Well <laugh> that is<sigh> fun", 1)
    assert utterance.text == "Well <laugh> that is <sigh> fun."
    assert [w.written for w in utterance.words] == ["Well", "that", "is", "fun"]
    assert [w.sounds_before for w in utterance.words] == [0, 1, 0, 1]


def test_a_lone_tag_is_an_utterance() -> None:
    assert stream("<laugh>") == [Utterance("<laugh>", ())]


def test_a_tag_behind_a_full_stop_goes_with_what_follows() -> None:
    assert texts("That is really good. <laugh> You know it.", 1) == [
        "That is really good.",
        "<laugh> You know it.",
    ]


def test_tags_with_spaces_and_other_scripts_are_never_split() -> None:
    assert said("네 <작은 웃음> 좋아요 <한숨>", KOREAN) == "네 <작은 웃음> 좋아요. <한숨>"
    long = "가나다라 마바사 " * 30 + "<작은 웃음> 좋아요"
    assert sum("<작은 웃음>" in text for text in texts(long, 1, KOREAN)) == 1


@pytest.mark.parametrize(
    "form", ["<laugh>", "<Laugh>", "<laughs>", "<laugh/>", "<laugh />", "[laugh]"]
)
def test_all_forms_of_a_tag_are_recognised(form: str) -> None:
    assert said(f"Oh {form} well") == "Oh <laugh> well"


def test_unknown_tags_are_dropped_with_one_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orpheus_plugin.text.tags._warned", set())
    with caplog.at_level(logging.WARNING):
        assert said("Oh <hiccup> well <hiccup> yes") == "Oh well yes"
        assert said("Oh <hiccup> well") == "Oh well"
    assert len(caplog.records) == 1
    assert "hiccup" in caplog.text
    assert said("<hiccup>") == ""


def test_html_and_angle_brackets_are_cleaned() -> None:
    assert (
        said("A <b>bold</b> H<sub>2</sub>O, I <3 you, 3 < 4")
        == "A bold H two O, I you, three less than four"
    )
    assert said("Mail <jo@example.com> now") == "Mail jo at example dot com now"


# ---- cleaning


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("**Bold** and *it* and `code` and ~~gone~~ and __this__",
        "Bold and it and code and gone and this"),
        ("# Title", "Title"),
        ("See [our site](https://example.com/x) now", "See our site now"),
        ("![a cat](cat.png) here", "a cat here"),
        ("It is known [1] here", "It is known here"),
        ("Go to https://www.example.com/docs/ now", "Go to example dot com slash docs now"),
        ("Go to example.com.", "Go to example dot com."),
        ("Mail me at john.doe@example.co.uk!", "Mail me at john dot doe at example dot co dot uk!"),
        ("It\u2019s \u201cgood\u201d", "It's \"good\""),
        ("good \u2014 really", "good, really"),
        ("good\u2014really", "good, really"),
        ("a - b", "a, b"),
        ("—Sure? —she asked. —Yes —he said—, sure", "Sure? she asked. Yes he said, sure"),
        ("What is 3 * 4, and 10 / 2?", "What is three times four, and ten divided by two?"),
        ("Press * or # to go on", "Press star or pound to go on"),
        ("then press '#'.", "then press pound."),
        ("Shopping: * milk * eggs", "Shopping: milk eggs"),
        ("Open Settings > My Account > Password", "Open Settings, My Account, Password"),
        ("$ pip install it", "pip install it"),
        ("snake_case", "snake case"),
        ("Great 😀👍🏽 job ❤️", "Great job"),
        ("fami\u200bly\x00 \x07bell", "family bell"),
        ("𝗯𝗼𝗹𝗱 ﬁne", "bold fine"),
        ("this & that", "this and that"),
        ("Tom &amp; Jerry", "Tom and Jerry"),
        ("this/that", "this that"),
        ("lots   of\t\nspace", "lots of space"),
        ("no way!!!", "no way!"),
        ("so (they say) it is", "so, they say, it is"),
        ("a well-known fact", "a well-known fact"),
        ("क्‍ष", "क्‍ष"),
        ("about 5 €, no", "about five euros, no"),
        ("look at main.py", "look at main dot py"),
    ],
)  # fmt: skip
def test_markdown_and_symbols_are_cleaned(text: str, spoken: str) -> None:
    assert said(text) == spoken


def test_code_is_not_read_out_but_stays_in_the_transcript() -> None:
    got = stream("Try this:\n```python\nprint('x')\n```\nThat is it", 10_000)
    assert [u.text for u in got] == ["Try this:", "That is it."]
    assert written(got) == "Trythis:```pythonprint('x')```Thatisit"


def test_a_table_is_read_cell_by_cell() -> None:
    assert said("| a | b |\n|---|---|\n| c | d |") == "a, b, c, d,"


@pytest.mark.parametrize(
    "text",
    ["", " ", "\n\n", "...", "😀", "😀 🎉!", "- ", "**", "<unheard>", "\x00", "---", "\ud83d"],
)
def test_text_with_nothing_to_speak_is_not_an_utterance(text: str) -> None:
    assert stream(text) == []


def test_text_that_is_not_spoken_stays_in_the_transcript() -> None:
    got = stream("🎉 Great news 😀 everyone", 10_000)
    assert got[0].text == "Great news everyone."
    assert got[0].words[0] == SpokenWord("🎉", "")
    cutter = UtteranceCutter()
    cutter.push("😀")
    assert cutter.flush() == []
    assert cutter.leftover == (SpokenWord("😀", ""),)
    assert [w.written for w in [*cutter.push("Hi"), *cutter.flush()][0].words] == ["😀", "Hi"]
    assert not cutter.leftover


def test_half_characters_are_joined() -> None:
    cutter = UtteranceCutter()
    out = [*cutter.push("Hi \ud83d"), *cutter.push("\ude00 you"), *cutter.flush()]
    assert [w.written for w in out[0].words] == ["Hi", "😀", "you"]


def test_chinese_words_are_characters_without_spaces() -> None:
    (utterance,) = stream("你好，GPT 很好。", options=TextOptions(language="zh"))
    assert utterance.text == "你好，GPT 很好。"
    assert [(w.written, w.space_after) for w in utterance.words] == [
        ("你", False), ("好，", False), ("GPT", True), ("很", False), ("好。", True)
    ]  # fmt: skip


def test_options_are_checked() -> None:
    with pytest.raises(InvalidOptions):
        TextOptions(max_chars=5)
    with pytest.raises(InvalidOptions):
        TextOptions(join_chars=500)
    with pytest.raises(InvalidOptions):
        TextOptions(first_clause_chars=-1)


# ---- any text, any split

PIECES = st.sampled_from(
    [
        "hello", "Hello", "Dr.", "e.g.", "U.S.", "J.", "3.5", "$5", "12:30", "example.com",
        "a@b.co", ".", ". ", "! ", "? ", "...",
        "…", ", ", "; ", " - ", "—", " ", "  ", "\n", "\n\n", "- ", "1. ", "# ", "**", "`", "```\n",
        "<laugh>", "<giggle>", "<", ">",
        "<3", "<b>", "(", ")", '"', "”", "’", "😀", "❤️", "。", "你好", "नमस्ते", "।", "안녕",
        "[a](http://b.c)", "|", "\x00",
        "\u200b", "a" * 300, "word " * 40, "I said so. ", "Then we go ", "123456789", "100%",
    ]
)  # fmt: skip
TEXTS = st.one_of(st.lists(PIECES, max_size=25).map("".join), st.text(max_size=120))


@given(text=TEXTS, data=st.data())
@settings(max_examples=200, deadline=None)
def test_any_split_gives_the_same_utterances(text: str, data: st.DataObject) -> None:
    whole = stream(text, 100_000, PATIENT)
    cutter = UtteranceCutter(PATIENT)
    out: list[Utterance] = []
    rest = text
    while rest:
        size = data.draw(st.integers(1, 40))
        out += cutter.push(rest[:size])
        rest = rest[size:]
    assert out + cutter.flush() == whole


@given(text=TEXTS, size=st.integers(1, 30))
@settings(max_examples=200, deadline=None)
def test_every_utterance_is_short_and_speakable_and_nothing_written_is_lost(
    text: str, size: int
) -> None:
    cutter = UtteranceCutter(TextOptions(max_chars=120, join_chars=80))
    out = [u for i in range(0, len(text), size) for u in cutter.push(text[i : i + size])]
    out += cutter.flush()
    for utterance in out:
        assert 0 < len(utterance.text) <= 120
        assert "\n" not in utterance.text
        assert "  " not in utterance.text
        assert utterance.text == utterance.text.strip()
        assert any(c.isalnum() for c in utterance.text)
    words = [word for utterance in out for word in utterance.words] + list(cutter.leftover)
    got = "".join("".join(word.written for word in words).split())
    expected = "".join(text.split())
    for tags in (r"</?[^\W\d_][^<>\n]*>", r"\[(?:laugh|sigh)s?\]"):
        got, expected = re.sub(tags, "", got), re.sub(tags, "", expected)
    if not re.search(r"[\ud800-\udfff\ufdd0]|<[^<>]*[@:]", text):
        assert got == expected


@given(text=TEXTS)
@settings(max_examples=100, deadline=None)
def test_early_cuts_change_where_utterances_end_but_no_word(text: str) -> None:
    got = []
    for options in (TextOptions(), PATIENT):
        cutter = UtteranceCutter(options)
        out = [u for i in range(0, len(text), 3) for u in cutter.push(text[i : i + 3])]
        out += cutter.flush()
        rest = "".join(word.written for word in cutter.leftover)
        got.append("".join((written(out) + rest).split()))
    assert got[0] == got[1]


# ---- what language models write

REPLIES = {
    "en": (
        "Sure! Here are three things you can try:\n\n1. **Restart** your router.\n2. Unplug it for"
        " *30 seconds*.\n3. Call us at 1-800-555-0199.\n\nLet me know if that helps!",
        "Your total is $1,249.99 (including $99.00 shipping), due by 5:30 p.m. on 12/24/2025. Mail"
        " support@example-shop.co.uk.",
        '"I can\'t," she whispered. "I just can\'t."\n\n"Why not?" he asked.\n\n"Because..." She'
        ' trailed off… and left.',
        "Here's some code:\n\n```python\ndef hello():\n    print('Hello, world!')\n```\n\nThis"
        " prints a greeting. Does that make sense?",
        "| Plan | Price |\n|------|-------|\n| Basic | $9.99/mo |\n| Pro | $29/mo |\n\nWhich one"
        " would you like?",
        "Well, I mean, if you really want to know what I think about this whole situation that we"
        " have been talking about for the last half an hour or so, then I would have to say that"
        " it is complicated.",
        "Oh <laugh> that is funny! <sigh> I wish I'd thought of it 😂 Dr. Smith (the cardiologist)"
        " did, e.g. on Tues. Jan. 5th at https://example.com/a?b=c.",
        "Mr. and Mrs. Johnson live at 221B Baker St. in London. They've lived there since 1995."
        " The pH is 7.4; the ratio is 16:9; version 2.0.1 is out.",
    ),
    "de": ("Das kostet 1.249,99 € inkl. MwSt., d.h. ca. 105 € im Monat. Ihr Termin ist am 3. März"
    " um 14:30 Uhr bei Dr. Müller – „passt das“?",),
    "fr": ("« Vraiment ? » demanda-t-elle. Le prix est de 1 249,99 € TTC, soit env. 105 € par"
    " mois. Ça vous va ?",),
    "es": ("—¿Seguro? —preguntó ella. El Sr. García llegará a las 15:30 h. del lunes, aprox. media"
    " hora tarde.",),
    "zh": ("你好！很高兴见到你。价格是¥199，包括运费。“真的吗？”她问。“是的……”他回答。"
    "请拨打 400-123-4567。",),
    "hi": ("नमस्ते! डॉ. शर्मा कल सुबह 10:30 बजे आएंगे। इसकी कीमत ₹1,249 है। क्या आप इसे खरीदना"
    " चाहेंगे?",),
}  # fmt: skip


@pytest.mark.parametrize(
    ("language", "reply"), [(lang, text) for lang, texts in REPLIES.items() for text in texts]
)
def test_replies_of_agents_are_cut_the_same_in_any_chunks(language: str, reply: str) -> None:
    rng = random.Random(0)
    patient = TextOptions(language=language, first_clause_chars=0)
    eager = TextOptions(language=language)
    whole = stream(reply, len(reply), patient)
    source = re.sub(r"</?[a-z]+>", "", "".join(reply.split()))
    for _ in range(20):
        largest = rng.choice((1, 4, 12, 80))
        chunks: list[str] = []
        rest = reply
        while rest:
            size = rng.randint(1, largest)
            chunks.append(rest[:size])
            rest = rest[size:]
        for options in (patient, eager):
            cutter = UtteranceCutter(options)
            got: list[Utterance] = []
            arrived = first = 0
            for chunk in chunks:
                arrived += len(chunk)
                got += cutter.push(chunk)
                first = first or (arrived if got else 0)
            got += cutter.flush()
            assert options is eager or got == whole
            assert written(got) + "".join(word.written for word in cutter.leftover) == source
            if options is eager:  # speech begins before a long sentence is there
                assert (first or len(reply)) <= 110 + largest


# ---- taken one by one


def test_utterances_are_taken_one_by_one_and_are_those_that_a_push_gives() -> None:
    text = "I can see it now. " * 40 + "**" * 600 + "That is all"
    cutter = UtteranceCutter()
    cutter.add(text)
    cutter.end_piece()
    taken: list[Utterance] = []
    while (utterance := cutter.take()) is not None or cutter.unread:
        taken += [utterance] if utterance else []
    assert taken == stream(text, 10_000)
    assert cutter.take() is None
    assert len(taken) > 4


def test_text_with_nothing_to_speak_is_read_in_several_calls() -> None:
    cutter = UtteranceCutter()
    cutter.add("** " * 2_000)
    cutter.end_piece()
    calls = 1
    while cutter.take() is None and cutter.unread:
        calls += 1
    assert calls > 2
    assert not cutter.unread


@pytest.mark.parametrize("silence", ["** ", "**\n", "``` ```\n\n", "😀 "])
def test_many_words_with_nothing_to_speak_are_few_words_of_the_utterance_after_them(
    silence: str,
) -> None:
    text = silence * 1_000 + "Hello."
    cutter = UtteranceCutter()
    cutter.add(text)
    cutter.end_piece()
    calls = [cutter.take()]
    while calls[-1] is None and cutter.unread:
        calls.append(cutter.take())
    assert calls[-1] is not None
    assert calls[-1].text == "Hello."
    words = calls[-1].words
    assert len(words) < 80
    place = 0
    for word in words:  # as they stand in the text: a turn that continues elsewhere looks for them
        assert text.find(word.written, place) - place < 4
        place = text.find(word.written, place) + len(word.written)
    assert place == len(text)
