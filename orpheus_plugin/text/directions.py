"""Stage directions as language models write them: *sighs*, (laughs), *scratches head*. They become
sounds or nothing, never words.

A direction is a known sound or gesture, or it reads like one: between stars, apart from a sentence,
a verb in the third person or the -ing form with what it is done to or where ("*leans over the
table*"). Emphasis (`*really*`, "it *makes sense*") is none of that and is read.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from orpheus_plugin.text.languages.base import word_set

_SOUNDS = """
laugh: laugh laughs laughing laughed laughter chortles cackles cackling guffaws lacht lachen
    lachend lachte rit rire rires riant rigole ríe rie risa risas riendo riéndose ride risata
    risate ridendo
chuckle laugh: chuckle chuckles chuckling chuckled giggle giggles giggling giggled snickers
    snickering kichert kichernd schmunzelt glousse ricanne risita ridacchia ridacchiando
sigh: sigh sighs sighing sighed seufzt seufzen seufzend soupir soupire soupirs soupirant suspira
    suspiro suspirando sospira sospiro sospirando
cough: cough coughs coughing coughed hustet husten hustend tousse toux toussant tose tos tosiendo
    tossisce tosse
sniffle: sniffle sniffles sniffling sniff sniffs sniffing schnieft schniefen renifle sorbe solloza
groan: groan groans groaning moan moans moaning stöhnt stöhnen stöhnend gémit gruñe gime geme
yawn: yawn yawns yawning gähnt gähnen gähnend bâille bâillement bosteza bostezo sbadiglia
    sbadiglio
gasp: gasp gasps gasping keucht keuchend halète jadea ansima
"""
_SILENT = """
smiles smiling grins grinning smirks smirking nods nodding shrugs shrugging winks winking whispers
whispering whispered mumbles muttering mutters
pauses pausing blushes blushing sobs sobbing frowns frowning bows bowing inhales exhales hums
humming clears shakes rolls takes leans laughs-out-loud
breathes exhales waves waving claps clapping cries crying gulps gulping snorts snorting pouts
pouting cringes winces wincing facepalms beams beaming
applauds growls grumbles grumbling whistles whistling shivers trembles
lächelt lächelnd nickt nickend zwinkert flüstert flüsternd grinst räuspert winkt sourit souriant
hoche chuchote murmure sonríe sonriendo asiente
susurra guiña sorride sorridendo annuisce sussurra
"""
_BASE = word_set(
    "laugh chuckle giggle sigh cough sniffle sniff groan moan yawn gasp risa rire ride "
    "lachen husten"
)
_NEEDS_MORE = frozenset(["clears", "shakes", "rolls", "takes", "leans", "bows", "breathes"])
"""Verbs that are a gesture only with the words after them: "clears throat"."""
_ALSO = word_set(
    "a an the bit little to himself herself themselves myself itself out loud and again "
    "deep breath throat head eyes shoulders his her their my with in back forward tiefe "
    "for effect moment sich leise laut doucement légèrement suavemente piano hoch still quiet"
    " nervous"
)
_ADJECTIVES = word_set(
    "nervous soft light quiet deep loud little small long heavy short brief dramatic awkward"
)
_NOISES = word_set("pause silence applause laughter cheering breath")
_SQUARE_NOISES = word_set(
    "music beep static inaudible crosstalk noise beat blank_audio"
)  # "(music)" may be text
_BODY = word_set(
    "head heads hand hands eye eyes eyebrow eyebrows brow shoulder shoulders arm arms finger"
    " fingers fist fists chin hair nose lip lips "
    "throat neck cheek cheeks foot feet leg legs face forehead temple temples knuckles teeth"
    " breath tongue thumb thumbs ear ears glasses"
)
_BODY_OTHERS = word_set(
    "kopf schultern augen augenbraue augenbrauen hände stirn épaules tête yeux sourcil sourcils"
    " mains gorge hombros cabeza ojos ceja cejas "
    "manos garganta spalle testa occhi sopracciglio sopracciglia mani gola"
)
_BEHIND_VERB = _BODY | word_set(
    "for you me him hat tea coffee water his her their my your its the a an at in on over to up"
    " down"
    " around away back off out from into onto toward towards with through "
    "behind across against closer forward forwards backwards slowly himself herself itself deep"
    " deeply"
)
_NO_VERBS = word_set(
    "is was has does this his its as us yes always sometimes perhaps unless plus minus less across"
    " besides towards news terms thanks "
    "congratulations results details steps tips notes afterwards upwards backwards outdoors"
    " indoors maybe-s thus nothing something "
    "everything anything morning evening during according including regarding king thing ring"
    " spring string being sing bring "
    "excluding concerning depending starting following pending"
)
_NO_GERMAN_VERBS = word_set(
    "nicht mit seit jetzt fast dort gut recht erst sonst oft weit nächst zuerst zuletzt überhaupt"
    " vielleicht"
)
_BEHIND_GERMAN_VERB = word_set(
    "sich weg mit den dem auf zu ihm ihr leise laut kurz tief langsam um im seine seinen ihre"
    " ihren nervös verlegen"
)
_REFLEXIVE = frozenset(["se", "si", "s'", "sich"])
_ALONE = word_set(
    "thinking typing listening waiting breathing crying singing dancing "
    "excitedly nervously quietly softly"
)
_PRONOUNS = frozenset(["se", "si", "s'", "il", "elle", "er", "sie", "he", "she"])
_SUBJECTS = word_set("it he she that this which who there everybody everyone one he's she's it's")
_FORMS = {
    form: tuple(tags.split())
    for tags, forms in (line.split(":") for line in re.split(r"\n(?! )", _SOUNDS.strip()))
    for form in forms.split()
} | dict.fromkeys(_SILENT.split(), ())

DIRECTION = re.compile(
    r"(?<!\*)\*(?! )([^*()\[\]<>\n]{3,60})\*(?!\*)|\(([^*()\[\]<>\n]{3,40})\)"
    r"|\[([^*()\[\]<>\n]{3,40})\](?!\()"
    r"|(?<![\w_])_(?! )([^_*()\[\]<>\n]{3,60})_(?![\w_])|(?<!~)~(?! )([^~*()\[\]<>\n]{3,60})~(?!~)"
)
_OPEN = re.compile(r"([*(\[])\s?([^\W\d]+)(?: ([^\W\d]+))?[^*()\[\]<>\n]{0,60}$")
_CLOSED_BEFORE = re.compile(r"(?:^|[.!?…,;:—\n\"”*)>\]-]|\ufdd0)\s*$")
_SENTENCE_BEFORE = re.compile(r"(?:^|[.!?…\n\"”)>\]*]|\ufdd0)\s*$")
_SENTENCE_AFTER = re.compile(r"\s{0,8}(?:$|[\n\"“]|[^\W\d_a-zß-ÿ])")
_PERIODS = re.compile(r"[,.!…]+(?: |$)")


def sounds_of(name: str) -> tuple[str, ...] | None:
    """The tags that a form of a sound's name stands for, the best first; () for a gesture, None for
    other words."""
    return _FORMS.get(name)


class _Place(NamedTuple):
    """Where a direction may stand.

    Attributes:
        bracketed: in brackets, not between stars.
        apart: nothing, or a mark, before it.
        between: a new sentence, or nothing, on both sides.
        subject: a subject before it: "She *waves*".
    """

    bracketed: bool
    apart: bool
    between: bool
    subject: bool


def direction(match: re.Match[str]) -> tuple[str, ...] | None:
    """The meaning of a match of DIRECTION: tags, the best first, () for silence, None for ordinary
    text."""
    written = (match[1] or match[2] or match[3] or match[4] or match[5]).strip()
    words = _PERIODS.sub(" ", written.lower()).split()
    if len(words) > 1 and (words[0].endswith("ly") or words[0] in _ADJECTIVES):
        words = words[1:]
    if len(words) > 1 and words[0] in _PRONOUNS and words[1] in _FORMS:
        words = words[1:]
    if not words or len(words) > 10:
        return None
    first, rest = words[0], words[1:]
    before = match.string[max(0, match.start() - 24) : match.start()]
    place = _Place(
        bracketed=match[0][0] in "([",
        apart=_CLOSED_BEFORE.search(before) is not None,
        between=_SENTENCE_BEFORE.search(before) is not None
        and _SENTENCE_AFTER.match(match.string, match.end()) is not None,
        subject=bool(_SUBJECTS.intersection(before.lower().split()[-1:])),
    )
    if match[0][0] == "[" and first == "music" and len(rest) < 3:
        return ()
    noise = first in _NOISES or (match[0][0] == "[" and first in _SQUARE_NOISES)
    if noise and not rest and (place.bracketed or (place.apart and written.islower())):
        return _FORMS.get(first, ())
    if first in _FORMS:
        return _FORMS[first] if _directs(first, rest, place) else None
    verb = first not in _NO_VERBS and (
        (first.endswith("s") and not first.endswith("ss")) or first.endswith("ing")
    )
    if place.bracketed or not (place.apart and written[0].islower()):
        body = len(rest) <= 3 and _BODY.intersection(rest)
        return () if verb and body and not place.subject else None
    return () if _acts(first, rest, place, verb=verb) else None


def _directs(first: str, rest: list[str], place: _Place) -> bool:
    """Whether words that begin with a known sound or gesture are meant as one."""
    if first in _NEEDS_MORE and not rest:
        return False
    if first in _BASE and not place.bracketed and (rest or not place.apart):
        return False  # "*sigh* I know", but "you make me *laugh*"
    told = not place.bracketed and (first.endswith("s") or place.apart)  # "*sighs and looks away*"
    if told:
        return not place.subject  # "She *waves* at us"
    return all(
        word in _ALSO or word in _FORMS or word.endswith(("ly", "mente", "ment")) for word in rest
    )


def _acts(first: str, rest: list[str], place: _Place, *, verb: bool) -> bool:
    """Whether words in no list, in small letters between stars and apart, tell of a gesture."""
    if not rest:
        return place.between and ((verb and first.endswith("s")) or first in _ALONE)
    if rest[-1] in ("sounds", "noises", "noise"):
        return True
    if first in _REFLEXIVE or rest[-1] in _BODY_OTHERS:
        return True
    if first.endswith("t") and rest[0] in _BEHIND_GERMAN_VERB and first not in _NO_GERMAN_VERBS:
        return True
    return verb and (rest[0] in _BEHIND_VERB or rest[0].endswith("ly") or _joined(rest))


def _joined(rest: list[str]) -> bool:
    """ "*turns and leaves*"."""
    return len(rest) > 1 and rest[0] == "and" and rest[1].endswith("s") and rest[1] not in _NO_VERBS


def open_direction(text: str, start: int, place: int) -> bool:
    """Whether a place falls into a stage direction that has not ended yet."""
    match = _OPEN.search(text, start, place)
    if match is None:
        return False
    first, second = match[2].lower(), (match[3] or "").lower()
    return first in _FORMS or (
        match[1] == "*"
        and (first.endswith(("s", "ing", "ly")) or first in _REFLEXIVE or second == "sich")
    )
