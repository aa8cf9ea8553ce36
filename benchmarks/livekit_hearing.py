"""What a LiveKit session says, recognised:
``python -m benchmarks.livekit_hearing [--sentences 20]``.

Headless AgentSessions answer with sentences the bundled voice was not trained on, through
`orpheus-tts serve`; what their audio output captured is read by Whisper tiny.en. Prints the word
error rate, and that of the recordings the voice was trained on.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

from benchmarks.report import add_save_option, save
from benchmarks.server_process import server_process
from orpheus_plugin.livekit import OrpheusTTS
from tests.livekit.fakes import RoteLLM, on_stage
from tests.support.recogniser import errors, heard

SENTENCES = Path(__file__).parent / "mini_held_out.json"


def sentences(count: int) -> list[dict[str, Any]]:
    """What agents say, of the held-out sentences."""
    every = json.loads(SENTENCES.read_text("utf-8"))["sentences"]
    return [sentence for sentence in every if sentence["kind"] != "wordnet"][:count]


async def capture(url: str, texts: list[str]) -> list[bytes]:
    """24 kHz s16le, one for each text: what a session's audio output was given."""
    found = []
    async with OrpheusTTS(url=url, seed=1) as speech:
        await speech.connect()
        model = RoteLLM("")
        async with on_stage(speech, llm=model, use_tts_aligned_transcript=True) as stage:
            for text in texts:
                model.reply = text
                stage.audio.frames.clear()
                await stage.session.generate_reply(user_input="go on")
                found.append(stage.audio.pcm)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    add_save_option(parser)
    parser.add_argument("--sentences", type=int, default=20)
    chosen = sentences(parser.parse_args().sentences)
    with server_process("--model", "mini", "--device", "cpu", "--max-turns", "1") as server:
        captured = asyncio.run(capture(server.url, [sentence["text"] for sentence in chosen]))
    rows = []
    for sentence, pcm in zip(chosen, captured, strict=True):
        found = heard(pcm)
        wrong, words = errors(sentence["text"], found)
        rows.append({"text": sentence["text"], "heard": found, "wrong": wrong, "words": words})
        print(f"{wrong:2} of {words:2}  {sentence['text']}\n{'':10}{found}", flush=True)
    words = sum(row["words"] for row in rows)
    rate = sum(row["wrong"] for row in rows) / words
    teacher = sum(sentence["teacher_wrong"] for sentence in chosen) / words
    print(
        f"word error rate {100 * rate:.1f} % of {words} words; its teacher's {100 * teacher:.1f} %"
    )
    save(
        "livekit_hearing",
        {"words": words, "word_error_rate": rate, "teacher": teacher, "sentences": rows},
    )


if __name__ == "__main__":
    main()
