"""Audio ids to codes: the frames of an Orpheus model."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from orpheus_plugin.tokens.vocabulary import CODES, SLOTS, Vocabulary

logger = logging.getLogger(__name__)


class FrameAssembler:
    """Turns the ids of one utterance into the codec's codes. One object per utterance.

    A frame's slots 0..6 hold: coarse, mid, fine, fine, mid, fine, fine. It gives four rows of codes
    (coarse, mid, fine) of 512 samples each, which are complete after slots 2, 3, 5 and 6. Each row
    is returned as soon as it is complete.

    The slot is read from the id. An id of another slot than the expected one breaks its frame: the
    rows returned so far stay, the rest of the frame is dropped, and reading resumes at the next id
    of slot 0. Ids that are not audio are skipped; the frame continues if the audio ids around them
    are in order.

    Attributes:
        frames: complete frames.
        out_of_order: audio ids of another slot than the expected one.
        foreign: ids that are not audio (text, control, beyond the last code).
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._base = vocabulary.audio_base
        self._next = 0
        self._coarse = 0
        self._mid = 0
        self._warned = False
        self.frames = 0
        self.out_of_order = 0
        self.foreign = 0

    def push(self, ids: Sequence[int]) -> npt.NDArray[np.int32]:
        """The rows of codes that `ids` complete: int32 [n, 3], columns coarse, mid, fine, each
        0..4095. n may be 0.

        Cost: about 0.5 us an id.
        """
        rows: list[tuple[int, int, int]] = []
        for token_id in ids:
            slot, code = divmod(int(token_id) - self._base, CODES)
            if not 0 <= slot < SLOTS:
                self.foreign += 1
                self._warn(token_id, "is not an audio id")
                continue
            if slot != self._next:
                self.out_of_order += 1
                self._warn(token_id, f"is of slot {slot}, expected slot {self._next}")
                self._next = 0
                if slot:
                    continue
            if slot == 0:
                self._coarse = code
            elif slot in (1, 4):
                self._mid = code
            else:
                rows.append((self._coarse, self._mid, code))
            self._next = (slot + 1) % SLOTS
            self.frames += self._next == 0
        return np.array(rows, dtype=np.int32).reshape(-1, 3)

    def _warn(self, token_id: int, what: str) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "malformed audio ids: id %d %s (after %d frames); logged once per utterance",
                token_id,
                what,
                self.frames,
            )
