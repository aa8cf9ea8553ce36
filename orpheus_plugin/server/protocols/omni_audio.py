"""Audio and words of vLLM-Omni's websocket: sentence by sentence, in one of its forms."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from orpheus_plugin.events import SAMPLE_RATE, AudioChunk, Word
from orpheus_plugin.server.encoders import OffLoop, WholeFile
from orpheus_plugin.server.served_turn import SILENCE, ServedTurn


@dataclass(frozen=True, slots=True)
class Format:
    """The form of a client's audio.

    Attributes:
        name: of the file format.
        speed: to encode the speech with, after that of the turn; 1 if it is streamed.
        streamed: pieces of pcm as they come, not one file a sentence.
        word_chunks: audio in JSON, base64, and after it the times of its words (vLLM-Omni's
            word_timestamps).
        word_alignment: the times of a sentence's words in its audio.done (Baseten's
            timestamp_type).
    """

    name: str
    speed: float
    streamed: bool
    word_chunks: bool
    word_alignment: bool


class Sentences:
    """The audio of one utterance. A sentence of the protocol is an utterance of the engine.

    Args:
        tell: sends a JSON message.
        audio: sends audio, or a message that contains it.
    """

    def __init__(
        self,
        tell: Callable[..., Awaitable[None]],
        audio: Callable[[bytes | str], Awaitable[None]],
        audio_format: Format,
        utterance: int,
    ) -> None:
        self.count = 0
        self._tell = tell
        self._audio = audio
        self._format = audio_format
        self._utterance = utterance
        self._began = 0  # samples of the turn before this sentence
        self._bytes = 0
        self._chunks = 0
        self._pcm = bytearray()
        self._words: list[Word] = []

    @property
    def _place(self) -> dict[str, int]:
        return {"utterance_index": self._utterance, "sentence_index": self.count}

    async def send(self, turn: ServedTurn) -> None:
        """Send everything until the turn's end."""
        current, position = -1, 0
        early: list[Word] = []
        async for event in turn:
            if isinstance(event, Word):
                early.append(event)  # ahead of its audio
            elif isinstance(event, AudioChunk):
                if event.utterance != current:
                    if current >= 0:
                        self._words += [word for word in early if word.utterance == current]
                        early = [word for word in early if word.utterance != current]
                        await self._end()
                    current = event.utterance
                    await self._begin(position, early)
                self._words += early
                early.clear()
                position = event.position + event.samples
                await self._take(event.pcm)
        if current < 0:
            await self._begin(0, [])
            await self._take(SILENCE)
        self._words += early
        await self._end()

    async def _begin(self, position: int, words: list[Word]) -> None:
        self._began, self._bytes, self._chunks = position, 0, 0
        self._pcm.clear()
        self._words.clear()
        await self._tell(
            "audio.start",
            **self._place,
            sentence_text=_joined(words),
            format=self._format.name,
            sample_rate=SAMPLE_RATE,
            channels=1,
        )

    async def _take(self, pcm: bytes) -> None:
        if self._format.streamed:
            await self._send(pcm, len(pcm) // 2)
        else:
            self._pcm += pcm

    async def _send(self, data: bytes, samples: int) -> None:
        start_ms = 1000 * (self._bytes // 2) / SAMPLE_RATE if self._format.streamed else 0.0
        self._bytes += len(data)
        if self._format.word_chunks:
            await self._chunk(start_ms, 1000 * samples / SAMPLE_RATE, data, None)
        else:
            await self._audio(data)

    async def _chunk(
        self, start_ms: float, length_ms: float, data: bytes, words: list[dict[str, object]] | None
    ) -> None:
        message = {
            "type": "audio.chunk",
            **self._place,
            "chunk_id": self._chunks,
            "chunk_start_ms": round(start_ms, 1),
            "chunk_end_ms": round(start_ms + length_ms, 1),
            "audio_b64": base64.b64encode(data).decode("ascii"),
            "timestamps": words,
        }
        await self._audio(json.dumps(message))
        self._chunks += 1

    async def _end(self) -> None:
        if not self._format.streamed:
            with contextlib.closing(
                OffLoop(WholeFile(self._format.name, self._format.speed))
            ) as file:
                data = await file.push(bytes(self._pcm)) + await file.finish()
            await self._send(data, len(self._pcm) // 2)
        words = [
            (word, self._seconds(word.start_s), self._seconds(word.end_s)) for word in self._words
        ]
        if self._format.word_chunks:
            times: list[dict[str, object]] = [
                {"word": word.text, "start_ms": round(1000 * start), "end_ms": round(1000 * end)}
                for word, start, end in words
            ]
            await self._chunk(0.0, 0.0, b"", times)
        info: dict[str, object] = {}
        if self._format.word_alignment:
            info["timestamp_info"] = {
                "word_alignment": {
                    "words": [word.text for word, _, _ in words],
                    "word_start_times_seconds": [start for _, start, _ in words],
                    "word_end_times_seconds": [end for _, _, end in words],
                }
            }
        await self._tell(
            "audio.done",
            **self._place,
            sentence_text=_joined(self._words),
            total_bytes=self._bytes,
            error=False,
            **info,
        )
        self.count += 1

    def _seconds(self, of_turn: float) -> float:
        """Seconds of the turn as seconds of the sentence."""
        return round(max(0.0, of_turn - self._began / SAMPLE_RATE) / self._format.speed, 3)


def _joined(words: list[Word]) -> str:
    return "".join(word.text + (" " if word.space_after else "") for word in words).strip()
