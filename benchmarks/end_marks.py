"""The effect of an end mark: `python benchmarks/end_marks.py` (two minutes).

The bundled voice speaks 60 texts that have no end mark, like titles, list lines and unmarked model
text: without the end mark that the text front end adds, with it, and with a full stop in the text.
Whisper tiny.en transcribes them. Printed: the word error rate of each; the last two should be about
equal.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.report import add_save_option, save  # noqa: E402
from orpheus_plugin import AudioChunk, LocalEngine, SpeechOptions  # noqa: E402
from orpheus_plugin.engine.config import EngineConfig  # noqa: E402
from orpheus_plugin.evaluation.judge import Listener, errors  # noqa: E402
from orpheus_plugin.text import utterance  # noqa: E402
from orpheus_plugin.text.scripts import end_mark  # noqa: E402

TEXTS = """
Good morning
Sounds good
Thank you
Your order is ready
We are open from Monday to Friday
How to make a good cup of tea
Opening hours
The history of the railway
Step one
Milk and two eggs
Your account settings
A short walk in the park
Terms and conditions
What we do next
Please hold the line
Three things to remember
No problem at all
See you tomorrow
Frequently asked questions
Your next appointment
Bring a warm coat
Fresh bread from the oven
Weather for the weekend
Turn left at the station
All tickets are sold out
The old man and the sea
Delivery within two days
Free parking behind the house
Our summer offers
Call us any time
The first chapter
Breakfast is served until ten
A quiet room with a view
Press any key to continue
Lost and found
The meeting starts at noon
Water the plants every day
Keep out of reach of children
Your password has been changed
Ready when you are
Two adults and one child
Choose a seat by the window
Cheese and tomato sandwich
We will call you back soon
The best places to visit in spring
Nothing to worry about
I will look into that for you
Here is what I found
Happy birthday to you
The train leaves from platform four
Let me check the calendar
One moment please
Great choice
Simple recipes for busy people
Contact and directions
Your package is on its way
Welcome back
The doctor can see you today
Learn to play the piano
Last updated this morning
""".strip().splitlines()


async def speak(engine: LocalEngine, text: str, seed: int) -> tuple[str, float]:
    """What is heard, and the seconds of audio."""
    turn = engine.open_turn(SpeechOptions(seed=seed))
    turn.push_text(text)
    turn.end()
    pcm = b"".join([event.pcm async for event in turn if isinstance(event, AudioChunk)])
    samples = np.frombuffer(pcm, "<i2").astype(np.float32) / np.float32(32_768)
    return await asyncio.to_thread(LISTENER, samples), samples.size / 24_000


def _none(text: str, *, within: bool) -> str:
    return ""


async def measure(seeds: int, show: bool) -> dict[str, dict[str, float]]:
    engine = LocalEngine(EngineConfig(model="mini", device="cpu", ahead_s=None))
    await engine.start()
    found: dict[str, dict[str, float]] = {}
    for name, mark in (("before", ""), ("no mark", ""), ("full stop", ".")):
        vars(utterance)["end_mark"] = _none if name == "before" else end_mark
        wrong = total = 0
        seconds = 0.0
        for text in TEXTS:
            for seed in range(1, seeds + 1):
                said, length = await speak(engine, text + mark, seed)
                bad, count = errors(text, said)
                if show and bad:
                    print(f"  {text + mark!r}: {said}")
                wrong, total, seconds = wrong + bad, total + count, seconds + length
        found[name] = {"word_error_rate": wrong / total, "seconds_of_audio": seconds}
        print(f"{name}: word error rate {wrong / total:.3f}, {seconds:.0f} s of audio", flush=True)
    await engine.aclose()
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    add_save_option(parser)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--show", action="store_true", help="print what was heard wrongly")
    options = parser.parse_args()
    LISTENER = Listener()
    figures = asyncio.run(measure(options.seeds, options.show))
    save("end_marks", {"texts": len(TEXTS), "seeds": options.seeds, **figures})
