"""Stage directions as language models write them: *sighs*, (laughs), [clears throat]. They are
sounds or nothing, never words."""

from __future__ import annotations

import re

from orpheus_plugin.text.languages.base import word_set

_SOUNDS = """
laugh: laugh laughs laughing laughed laughter chortles lacht lachen lachend lachte rit rire rires
    riant rigole ríe rie risa risas riendo riéndose ride risata risate ridendo
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
whispering whispered mumbles muttering mutters pauses pausing blushes blushing sobs sobbing frowns
frowning bows bowing inhales exhales hums humming clears shakes rolls takes leans laughs-out-loud
breathes lächelt lächelnd nickt nickend zwinkert flüstert flüsternd grinst räuspert sourit
souriant hoche chuchote murmure sonríe sonriendo asiente susurra guiña sorride sorridendo annuisce
sussurra
"""
_BASE = word_set(
    "laugh chuckle giggle sigh cough sniffle sniff groan moan yawn gasp risa rire ride "
    "lachen husten"
)
_NEEDS_MORE = frozenset(["clears", "shakes", "rolls", "takes", "leans", "bows", "breathes"])
"""Verbs that are a gesture only with what follows: "clears throat"."""
_ALSO = word_set(
    "a an the bit little to himself herself themselves myself itself out loud and again "
    "deep breath throat head eyes shoulders his her their my with in back forward tiefe "
    "sich leise laut doucement légèrement suavemente piano hoch still quiet nervous"
)
_ADJECTIVES = word_set("nervous soft light quiet deep loud little small long heavy")
_FORMS = {
    form: tuple(tags.split())
    for tags, forms in (line.split(":") for line in re.split(r"\n(?! )", _SOUNDS.strip()))
    for form in forms.split()
} | dict.fromkeys(_SILENT.split(), ())

DIRECTION = re.compile(
    r"(?<!\*)\*(?! )([^*()\[\]<>\n]{3,40})\*(?!\*)|\(([^*()\[\]<>\n]{3,40})\)"
    r"|\[([^*()\[\]<>\n]{3,40})\](?!\()"
    r"|(?<![\w_])_(?! )([^_*()\[\]<>\n]{3,40})_(?![\w_])|(?<!~)~(?! )([^~*()\[\]<>\n]{3,40})~(?!~)"
)
_OPEN = re.compile(r"[*(\[]\s?([^\W\d]+)[^*()\[\]<>\n]{0,40}$")
_CLOSED_BEFORE = re.compile(r"(?:^|[.!?…,;:—\n\"”*)>\]-])\s*$")


def sounds_of(name: str) -> tuple[str, ...] | None:
    """The tags that a form of a sound's name may stand for, the best first; () for a gesture, None
    for other words."""
    return _FORMS.get(name)


def direction(match: re.Match[str]) -> tuple[str, ...] | None:
    """What a match of DIRECTION directs: tags that may stand for it, () for silence, None if it is
    ordinary text."""
    inner = (match[1] or match[2] or match[3] or match[4] or match[5]).strip().lower().rstrip(".!…")
    words = inner.replace(",", " ").split()
    if len(words) > 1 and (words[0].endswith("ly") or words[0] in _ADJECTIVES):
        words = words[1:]
    if not words or len(words) > 6 or words[0] not in _FORMS:
        return None
    first, rest = words[0], words[1:]
    told = match[0][0] == "*" and first.endswith("s")  # "*sighs and looks away*"
    if not told and any(
        word not in _ALSO and word not in _FORMS and not word.endswith("ly") for word in rest
    ):
        return None
    if first in _NEEDS_MORE and not rest:
        return None
    if first in _BASE and match[0][0] not in "([":  # "*sigh* I know", but "you make me *laugh*"
        before = match.string[max(0, match.start() - 4) : match.start()]
        if rest or not _CLOSED_BEFORE.search(before):
            return None
    return _FORMS[first]


def open_direction(text: str, start: int, place: int) -> bool:
    """Whether a place falls into a stage direction that has not ended yet."""
    match = _OPEN.search(text, start, place)
    return match is not None and match[1].lower() in _FORMS
