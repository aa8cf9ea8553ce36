"""Text as it streams in from a language model, cut into utterances that a speech model can read.

The first utterance of a turn is cut early, so that speech can start before a long sentence is
complete; the later ones are whole sentences, short neighbours joined. Spoken and written text stay
together, word by word: the model reads `Utterance.text`; transcripts and the agent's memory are
made of `SpokenWord.written`.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, replace

from orpheus_plugin.errors import InvalidOptions
from orpheus_plugin.text.cuts import early_cut, emergency_cut, most_chars
from orpheus_plugin.text.normalizer import Normalizer, Token
from orpheus_plugin.text.pronunciations import Pronunciations
from orpheus_plugin.text.scripts import split_cjk
from orpheus_plugin.text.sentences import find_sentence_end
from orpheus_plugin.text.tags import ENGLISH_TAGS, TAG_HOLDER, TagExtractor
from orpheus_plugin.text.utterance import SpokenWord, Utterance, utterances

__all__ = ["ENGLISH_TAGS", "SpokenWord", "TextOptions", "Utterance", "UtteranceCutter"]


@dataclass(frozen=True)
class TextOptions:
    """How text is cleaned and cut.

    Attributes:
        tags: the emotion tags the model knows, without brackets.
        spell_numbers: write out numbers, money, dates, units and similar text.
        language: two-letter code; decides abbreviations and the words for numbers.
        pronunciations: words that are spoken in another way than they are written.
        max_chars: no utterance's text is longer than this.
        join_chars: short neighbouring sentences are joined up to this length.
        first_clause_chars: from this length on the first utterance is cut at a comma or the like,
            if its sentence is still arriving; 0 waits for the sentence.
        first_max_chars: at this length the first utterance is cut at a space if nothing better has
            come.
        first_sentence_chars: a first sentence with fewer letters ("Hi!") is joined with what
            follows, unless flushed.
    """

    tags: frozenset[str] = ENGLISH_TAGS
    spell_numbers: bool = True
    language: str = "en"
    pronunciations: Pronunciations = Pronunciations()  # noqa: RUF009 - never changed
    max_chars: int = 280
    join_chars: int = 160
    first_clause_chars: int = 25
    first_max_chars: int = 100
    first_sentence_chars: int = 5

    def __post_init__(self) -> None:
        if self.max_chars < 20 or not 0 < self.join_chars <= self.max_chars:
            raise InvalidOptions(
                "max_chars must be at least 20 and join_chars between 1 and max_chars"
            )
        if min(self.first_clause_chars, self.first_max_chars, self.first_sentence_chars) < 0:
            raise InvalidOptions("the lengths of a first utterance cannot be negative")


_LINE_END = "\u2028"  # stands for a line end that ends a sentence
_LONGEST_WORD = 200
_TOKEN = re.compile(
    rf"{TAG_HOLDER}|(?:https?://|www\.)[^\s{TAG_HOLDER}]+|[^\s{TAG_HOLDER}]{{1,{_LONGEST_WORD}}}"
)
_PORTION = 512
"""Characters read at a time."""
_STEPS = 8
"""The most cuts of one `take`."""
_SILENCE = 128
"""Characters with nothing to speak after which `take` stops."""
_FEW_WORDS = 16
"""More words of a piece with nothing to speak become one, verbatim: a turn may have 3,000."""


class UtteranceCutter:
    """Collects the deltas of one turn and hands out utterances as soon as they are certain.

    `add` and `end_piece` take text and cost almost nothing; each `take` reads the text of one
    utterance. `push` and `flush` do both until nothing is left.

    Cost: linear in the text, about 3 us a character and at most 20 us; one `take` is at most 5 ms.
    On a processor with AVX2 only, twice as much.

    Attributes:
        unread: the last `take` stopped before it found an utterance; call it again.
    """

    def __init__(self, options: TextOptions | None = None) -> None:
        self._options = options or TextOptions()
        self._tags = TagExtractor(self._options.tags)
        self._normalizer = Normalizer(
            language=self._options.language,
            spell_numbers=self._options.spell_numbers,
            pronunciations=self._options.pronunciations,
        )
        self._arrived: deque[str | None] = deque()  # not read yet; None is the end of a piece
        self._final = False  # raw is a piece that has ended
        self._raw = ""  # text not handed out yet, verbatim
        self._handed_out = 0  # characters, by this `take`
        self._scan = 0  # no sentence ends in raw[ready:scan]
        self._ready = 0  # whole sentences up to here wait for a neighbour
        self._lines: list[int] = []  # line ends in raw that end a sentence
        self._line_begins = True  # raw begins a line
        self._half = ""  # first half of a surrogate pair
        self._begun = False  # whether an utterance was handed out
        self._second = False  # and a second one
        self._cut: deque[Utterance] = deque()  # not taken yet
        self.unread = False
        self._carried: list[SpokenWord] = []  # unspoken; they go into the next utterance

    def add(self, delta: str) -> None:
        """Add the next piece of text, split anywhere."""
        text = self._mend(delta)
        for start in range(0, len(text), _PORTION):
            self._arrived.append(text[start : start + _PORTION])

    def end_piece(self) -> None:
        """Speak everything that was added so far, complete or not. More text may follow."""
        self._half = ""
        self._arrived.append(None)

    def take(self) -> Utterance | None:
        """The next utterance that is certain; None until more text comes, or while there is
        `unread` text."""
        self._handed_out = steps = 0
        self.unread = False
        while not self._cut and self._step():
            steps += 1
            if steps == _STEPS or self._handed_out >= _SILENCE:
                self.unread = not self._cut
                break
        return self._cut.popleft() if self._cut else None

    def push(self, delta: str) -> list[Utterance]:
        """Add the next piece of text and return all that can be spoken now."""
        self.add(delta)
        return self._all()

    def flush(self) -> list[Utterance]:
        """Return all text as utterances, complete or not. More text may follow."""
        self.end_piece()
        return self._all()

    def release(self) -> list[Utterance]:
        """Return whole sentences that wait to be joined with the next; an unfinished sentence
        stays.

        For a listener who has no audio left while no text arrives.
        """
        self._hand_out(self._ready)
        released = list(self._cut)
        self._cut.clear()
        return released

    @property
    def leftover(self) -> tuple[SpokenWord, ...]:
        """Words with nothing to speak that are not in an utterance yet (an emoji at the very
        end)."""
        return tuple(self._carried)

    def _all(self) -> list[Utterance]:
        out = []
        while (utterance := self.take()) is not None or self.unread:
            if utterance is not None:
                out.append(utterance)
        return out

    def _mend(self, delta: str) -> str:
        text = self._half + delta
        self._half = ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        if not text.isascii():
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "ignore")
        return text

    # ---- where to cut

    def _step(self) -> bool:
        """Cut once or read more text. False when neither is possible.

        Every decision except an early first cut depends on the text alone, not on how it was split
        on arrival.
        """
        if self._raw and self._cut_once():
            return True
        if self._final:
            self._final = False
            self._hand_out(len(self._raw))
            self._line_begins = True
            return True
        if self._arrived:
            portion = self._arrived.popleft()
            self._final = portion is None
            self._raw += portion or ""
            return True
        options = self._options
        if not self._begun and (
            place := early_cut(self._raw, options.first_clause_chars, options.first_max_chars)
        ):
            self._hand_out(place, within=True)
            return True
        return False

    def _cut_once(self) -> bool:
        """Handle the next sentence end: whole sentences become an utterance or wait for a
        neighbour."""
        most = most_chars(self._raw, self._options.max_chars)
        join = min(self._options.join_chars, most)
        found, scan = find_sentence_end(
            self._raw,
            self._scan,
            self._ready,
            join if self._ready else most,
            language=self._options.language,
            final=self._final,
        )
        reach = found.mark if found else scan
        if self._ready and reach > join:
            self._hand_out(self._ready)
            return True
        if reach > most and (place := emergency_cut(self._raw, most)):
            self._hand_out(place, within=True)
            return True
        self._scan = scan
        if found is None:
            return False
        self._ready = found.end
        if self._raw[found.end : found.end + 1] == "\n":
            self._lines.append(found.end)
        if self._long_enough(found.end):
            self._hand_out(found.end)
        return True

    def _long_enough(self, end: int) -> bool:
        if not self._begun:
            return _letters(self._raw[:end]) >= self._options.first_sentence_chars
        half = self._options.join_chars // 2
        return end >= (half if self._second else half // 2)

    # ---- what is said

    def _hand_out(self, place: int, *, within: bool = False) -> None:
        """Make utterances of the text up to a place. With `within` its sentence continues after
        it."""
        verbatim, self._raw = self._raw[:place], self._raw[place:]
        piece = verbatim
        self._scan = max(0, self._scan - place)
        self._ready = max(0, self._ready - place)
        self._handed_out += place
        lines = {line for line in self._lines if line < place}
        self._lines = [line - place for line in self._lines if line >= place]
        if not piece:
            return
        for line in lines:
            piece = f"{piece[:line]}{_LINE_END}{piece[line + 1 :]}"
        items = self._items(piece)
        self._line_begins = False
        last = items[-1] if items else ""
        if within and isinstance(last, SpokenWord) and self._raw[:1].strip() and piece[-1:].strip():
            items[-1] = replace(last, space_after=False)  # cut in the middle of a word
        if not any(isinstance(item, str) or item.spoken for item in items):
            silent = [item for item in items if isinstance(item, SpokenWord)]
            if len(silent) > _FEW_WORDS:
                silent = [SpokenWord(verbatim.strip(), "", silent[-1].space_after)]
            self._carried += silent
            return
        items = [*self._carried, *items]
        self._carried = []
        out = utterances(items, self._options.max_chars, within=within)
        self._second = self._begun or len(out) > 1
        self._begun = True
        self._cut += out

    def _items(self, piece: str) -> list[SpokenWord | str]:
        """The words of a piece and, as plain strings in brackets, the emotion tags between them."""
        tokens: list[Token] = []
        spaces: list[bool] = []
        marks: list[tuple[int, str]] = []  # before which token a tag stands
        text, found = self._tags.extract(piece)
        offset = 0
        for match in _TOKEN.finditer(text):
            gap = text[offset : match.start()]
            new_item = _LINE_END in gap
            line_start = new_item or "\n" in gap or (self._line_begins and not offset)
            offset = match.end()
            if match[0][0] == TAG_HOLDER:
                marks += [(len(tokens), found.pop(0))]
                continue
            pieces = split_cjk(match[0])
            tokens += [
                Token(written, line_start and not number, new_item and not number)
                for number, written in enumerate(pieces)
            ]
            goes_on = text[offset : offset + 1]  # of a word too long for one token
            spaces += [False] * (len(pieces) - 1) + [
                goes_on in ("", TAG_HOLDER) or goes_on.isspace()
            ]
        items: list[SpokenWord | str] = []
        readings = self._normalizer.read(tokens)
        for index, (token, said) in enumerate(zip(tokens, readings, strict=True)):
            sounds = [tag for place, tag in marks if place == index]
            items += sounds
            items.append(SpokenWord(token.written, said, spaces[index], len(sounds)))
        return items + [tag for place, tag in marks if place == len(tokens)]


def _letters(text: str) -> int:
    return sum(c.isalnum() for c in text)
