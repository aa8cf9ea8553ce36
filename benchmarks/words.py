"""How far word times are from what a recogniser hears:
``python benchmarks/words.py`` (or ``--sentences 10``).

The engine speaks each sentence in one turn; the words it reported while streaming are compared with
the word times of Whisper tiny.en on the same audio. Printed: the error of the word starts
(Whisper's own times are good to about 50 ms to 100 ms), how far behind its audio a word was
reported at worst, and where the last word ends. Words the recogniser heard differently are left
out.
"""

from __future__ import annotations

import argparse
import asyncio
import difflib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.report import add_save_option, save  # noqa: E402
from orpheus_plugin.engine.config import EngineConfig  # noqa: E402
from orpheus_plugin.engine.local import LocalEngine  # noqa: E402
from orpheus_plugin.evaluation.judge import Listener  # noqa: E402
from orpheus_plugin.events import SAMPLE_RATE, AudioChunk, Word  # noqa: E402
from orpheus_plugin.options import SpeechOptions  # noqa: E402

SENTENCES = (
    "Thanks for calling, how can I help you today?",
    "Let me pull up your account, this will only take a second.",
    "I found two openings tomorrow, would the earlier one suit you?",
    "Your total comes to eighty-four dollars and twenty cents.",
    "Unfortunately, we are out of stock until the end of next week.",
    "Could you spell your last name for me, please?",
    "The technician will arrive between nine and eleven in the morning.",
    "I understand how frustrating that must be.",
    "You should see the refund on your card within five business days.",
    "Is there a phone number where we can reach you?",
    "Great, I have updated your address. Is there anything else?",
    "Please press the button on the back of the device for ten seconds.",
    "I am sorry, I did not catch that. Could you say it again?",
    "Sure, no problem at all. I will do that for you right away.",
    "The museum opens at ten, and the last entry is at half past four.",
    "It looks like your package was delivered to a neighbor on Friday.",
    "Before we continue, I need to verify your date of birth.",
    "Turn left after the bridge, then follow the signs to the airport.",
    "There is a small fee for changing the flight on the same day.",
    "Have you tried turning it off and on again?",
    "The doctor recommends taking one tablet after each meal.",
    "We can offer you a window seat, or one by the aisle.",
    "Let me transfer you to a colleague who knows more about this.",
    "Your next payment is due on the fifteenth of August.",
    "The weather will stay dry until Sunday evening.",
    "I can hear you clearly now. Please go on.",
    "That sounds like a good plan, shall I go ahead and book it?",
    "One moment, the system is a little slow this morning.",
    "Thank you for your patience, and have a wonderful evening.",
    "We close at six today, but you can always leave a message.",
    "The keys are in the blue box, next to the front door.",
    "He asked for a table near the window. They gave him one outside.",
    "My train was late, so I missed the first part of the meeting.",
    "Would you like coffee, tea, or a glass of water?",
    "It takes about twenty minutes to walk there from the station.",
    "The price includes breakfast. Parking is ten dollars a day.",
    "I have sent the form to your email. Please sign it before Monday.",
    "She plays the piano very well, although she never had a teacher.",
    "When you are ready, read me the number on the bottom of the card.",
    "The new kitchen has a large oven, two sinks, and plenty of light.",
    "No, that is not what I meant. Let me explain.",
    "The parcel weighs less than a pound, so the postage is low.",
    "If it rains, we will meet inside. If not, we will be in the garden.",
    "Our office is on the third floor, right above the bakery.",
    "You can pay by card, or in cash at the counter.",
    "The picture was taken last summer, on the coast of Maine.",
    "A good rest will help. Drink a lot of water, and stay in bed.",
    "They moved here from Boston, and they have never looked back.",
    "The red light means that the battery is low.",
    "Good night, and thank you for everything.",
)


@dataclass(frozen=True, slots=True)
class Spoken:
    """What one turn gave."""

    audio: npt.NDArray[np.float32]
    words: list[Word]
    late_s: list[
        float
    ]  # for each word: delivered audio minus the word's start, if it came behind its start


async def speak(engine: LocalEngine, text: str, seed: int) -> Spoken:
    turn = engine.open_turn(SpeechOptions(seed=seed))
    turn.push_text(text)
    turn.end()
    pcm = bytearray()
    words: list[Word] = []
    late: list[float] = []
    async for event in turn:
        if isinstance(event, AudioChunk):
            pcm += event.pcm
        elif isinstance(event, Word):
            words.append(event)
            late.append(max(0.0, len(pcm) / 2 / SAMPLE_RATE - event.start_s))
    audio = np.frombuffer(bytes(pcm), np.int16).astype(np.float32) / np.float32(32768)
    return Spoken(audio, words, late)


class Recogniser:
    """Whisper tiny.en with word times."""

    def __init__(self) -> None:
        self._listener = Listener()

    def __call__(self, audio: npt.NDArray[np.float32]) -> list[tuple[str, float, float]]:
        """Words with start and end in seconds of the 24 kHz audio."""
        segments = self._listener.segments(audio, silence_s=0.5, word_timestamps=True)
        heard = [word for segment in segments for word in segment.words]
        return [(word.word, word.start - 0.5, word.end - 0.5) for word in heard]


def paired(said: Sequence[str], heard: Sequence[str]) -> list[tuple[int, int]]:
    """Indices of words that are the same on both sides, in order."""
    a, b = ([re.sub(r"[^a-z]", "", word.lower()) for word in side] for side in (said, heard))
    blocks = difflib.SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()
    return [(block.a + i, block.b + i) for block in blocks for i in range(block.size)]


def speech_end(audio: npt.NDArray[np.float32]) -> float:
    """Where the last 10 ms within 30 dB of the loudest are."""
    frames = audio[: audio.size // 240 * 240].reshape(-1, 240)
    level = 10 * np.log10(np.mean(frames**2, axis=1) + 1e-10)
    loud = np.nonzero(level > max(level.max() - 30, -60))[0] if level.size else np.zeros(0, int)
    return float(loud[-1] + 1) * 0.01 if loud.size else 0.0


async def measure(model: str, sentences: Sequence[str]) -> dict[str, Any]:
    engine = LocalEngine(EngineConfig(model=model))
    recogniser = Recogniser()
    starts: list[float] = []
    late: list[float] = []
    ends: list[float] = []
    words = 0
    await engine.start()
    try:
        for index, text in enumerate(sentences):
            spoken = await speak(engine, text, index)
            heard = await asyncio.to_thread(recogniser, spoken.audio)
            pairs = paired([word.text for word in spoken.words], [word for word, _, _ in heard])
            starts += [spoken.words[i].start_s - heard[j][1] for i, j in pairs]
            late += spoken.late_s
            words += len(spoken.words)
            if spoken.words:
                ends.append(spoken.words[-1].end_s - speech_end(spoken.audio))
            print(f"{index + 1:3} {len(pairs):2}/{len(spoken.words):2} words  {text}", flush=True)
    finally:
        await engine.aclose()
    size = np.abs(starts) if starts else np.zeros(1)
    return {
        "sentences": len(sentences),
        "words": words,
        "words_recognised": len(starts),
        "start_error_mean_s": float(size.mean()),
        "start_error_median_s": float(np.median(size)),
        "start_error_p90_s": float(np.percentile(size, 90)),
        "start_error_p99_s": float(np.percentile(size, 99)),
        "start_bias_s": float(np.mean(starts)) if starts else 0.0,
        "reported_behind_start_p95_s": float(np.percentile(late, 95)) if late else 0.0,
        "last_word_end_error_median_s": float(np.median(np.abs(ends))) if ends else 0.0,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add_save_option(parser)
    parser.add_argument("--model", default="mini", help="as in `orpheus-tts say --model`")
    parser.add_argument("--sentences", type=int, default=len(SENTENCES))
    arguments = parser.parse_args()
    figures = asyncio.run(measure(arguments.model, SENTENCES[: arguments.sentences]))
    for name, value in figures.items():
        print(f"{name:32} {value:.3f}" if isinstance(value, float) else f"{name:32} {value}")
    save("words", {"model": arguments.model} | figures)


if __name__ == "__main__":
    main()
