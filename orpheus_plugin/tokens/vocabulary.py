"""The meaning of an Orpheus model's ids: text, control marks and audio; and prompts.

An Orpheus tokenizer is a text tokenizer plus a contiguous run of `<custom_token_N>`. N = 1..6 are
control marks, N >= 10 is audio: 7 slots of 4096 codes, `<custom_token_{10 + 4096 * slot + code}>`.
A frame is one id of each slot in order and decodes to 2048 samples (canopyai/Orpheus-TTS,
engine_class.py:80-86 and decoder.py:28-52).

Every id is read from the model's own tokenizer, so fine-tunes and small models with another text
vocabulary work, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orpheus_plugin.errors import BadCheckpoint
from orpheus_plugin.json_files import read_object

SLOTS = 7
"""Audio ids in a frame."""
CODES = 4096
"""Codes of a slot."""

_AUDIO_OFFSET = 10
_CUSTOM_TOKENS = _AUDIO_OFFSET + SLOTS * CODES
_BOS = "<|begin_of_text|>"
_EOT = "<|eot_id|>"


@dataclass(frozen=True)
class Vocabulary:
    """The ids of one model. All are ids of its language model.

    Attributes:
        bos, eot: begin of text and end of turn of the text tokenizer.
        start_of_speech, end_of_speech, start_of_human, end_of_human, start_of_ai:
            control marks. `end_of_speech` is the id that stops a generation.
        audio_base: id of slot 0, code 0.
        size: number of ids the language model knows (rows of its embedding).
    """

    bos: int
    eot: int
    start_of_speech: int
    end_of_speech: int
    start_of_human: int
    end_of_human: int
    start_of_ai: int
    audio_base: int
    size: int
    _tokenizer: Any = field(default=None, repr=False, compare=False)
    _not_text: frozenset[int] = field(default=frozenset(), repr=False, compare=False)

    @classmethod
    def load(cls, model_dir: Path) -> Vocabulary:
        """Read `tokenizer.json` (and `vocab_size` of `config.json`, if it is there) of a model
        directory.

        Raises BadCheckpoint if the tokenizer cannot be read or lacks Orpheus' tokens. Takes about
        half a second for the full vocabulary: call it once, not on an event loop.
        """
        from tokenizers import Tokenizer

        path = Path(model_dir) / "tokenizer.json"
        if not path.is_file():
            raise BadCheckpoint(f"{path.parent}: no tokenizer.json")
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception for what it cannot parse
            raise BadCheckpoint(f"{path}: not a tokenizer: {error}") from error
        tokenizer.no_truncation()
        tokenizer.no_padding()

        def token_id(token: str) -> int:
            found: int | None = tokenizer.token_to_id(token)
            if found is None:
                raise BadCheckpoint(f"{path}: no token {token}: not an Orpheus tokenizer")
            return found

        base = token_id("<custom_token_0>")
        for number in range(_CUSTOM_TOKENS):
            if token_id(f"<custom_token_{number}>") != base + number:
                raise BadCheckpoint(
                    f"{path}: <custom_token_{number}> is not in the run that starts at id {base}"
                )
        highest = max(tokenizer.get_vocab(with_added_tokens=True).values())
        size = _model_vocabulary(path.with_name("config.json"), default=highest + 1)
        if size < base + _CUSTOM_TOKENS:
            raise BadCheckpoint(
                f"{path.parent}: the model knows {size} ids, its audio ids end at"
                f" {base + _CUSTOM_TOKENS - 1}"
            )
        bos, eot = token_id(_BOS), token_id(_EOT)
        marks = {bos, eot} | {
            i
            for i, token in tokenizer.get_added_tokens_decoder().items()
            if token.content.startswith(("<custom_token_", "<|"))
        }
        return cls(
            bos=bos,
            eot=eot,
            start_of_speech=base + 1,
            end_of_speech=base + 2,
            start_of_human=base + 3,
            end_of_human=base + 4,
            start_of_ai=base + 5,
            audio_base=base + _AUDIO_OFFSET,
            size=size,
            _tokenizer=tokenizer,
            _not_text=frozenset(marks),
        )

    def text_ids(self, text: str) -> list[int]:
        """Ids of plain text, with no mark added. Control marks written in `text` are dropped, so
        text cannot control the model."""
        if self._tokenizer is None:
            raise BadCheckpoint("this vocabulary was made without a tokenizer")
        if not text.isascii():  # halves of surrogate pairs cannot be encoded
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return [i for i in ids if i not in self._not_text]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids with control marks written out, from which a server's tokenizer makes the
        same ids.

        Raises BadCheckpoint if this vocabulary was made without a tokenizer.
        """
        if self._tokenizer is None:
            raise BadCheckpoint("this vocabulary was made without a tokenizer")
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return text

    def prompt(self, voice: str | None, text: str) -> list[int]:
        """The ids that make the model speak `text`; its next id is the first audio id.

        `[start_of_human, bos, "voice: text"..., eot, end_of_human, start_of_ai, start_of_speech]`,
        with one bos whatever the tokenizer's own template does. Without a voice (None or empty) it
        has the text alone.
        """
        body = self.text_ids(f"{voice}: {text}" if voice else text)
        return [
            self.start_of_human,
            self.bos,
            *body,
            self.eot,
            self.end_of_human,
            self.start_of_ai,
            self.start_of_speech,
        ]

    @property
    def first_custom_token(self) -> int:
        """The id of `<custom_token_0>`."""
        return self.audio_base - _AUDIO_OFFSET


def _model_vocabulary(config: Path, default: int) -> int:
    if not config.is_file():
        return default
    size = read_object(config).get("vocab_size", default)
    try:
        return int(size)
    except (ValueError, TypeError, OverflowError) as error:
        raise BadCheckpoint(f"{config}: not a model configuration: {error}") from error
