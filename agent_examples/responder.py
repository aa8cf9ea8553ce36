"""The answers of `bot.py` if no language model is configured: a few rules."""

from __future__ import annotations

import asyncio
import datetime
import random
import re

from pipecat.frames.frames import (
    Frame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
)
from pipecat.processors.frame_processor import FrameDirection
from pipecat.services.llm_service import LLMService
from pipecat.services.settings import LLMSettings

SENTENCE_S = 0.05
"""Between two sentences."""


class Responder(LLMService):
    """Answers with a few rules if no language model is configured."""

    def __init__(self) -> None:
        nothing = dict.fromkeys(
            (
                "model", "system_instruction", "temperature", "max_tokens", "top_p", "top_k",
                "frequency_penalty",
                "presence_penalty", "seed", "filter_incomplete_user_turns",
                "user_turn_completion_config",
                "use_provider_thinking_default",
            )
        )  # fmt: skip
        super().__init__(settings=LLMSettings(**nothing))  # type: ignore[arg-type]

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if not isinstance(frame, LLMContextFrame):
            await self.push_frame(frame, direction)
            return
        said = [
            m
            for m in frame.context.get_messages()
            if isinstance(m, dict) and m.get("role") == "user"
        ]
        reply = answer(str(said[-1].get("content", "")) if said else "")
        await self.push_frame(LLMFullResponseStartFrame())
        # As a language model writes: an answer that comes at once stops the loop from sending sound
        # while all of it passes through the pipeline.
        for sentence in re.split(r"(?<=[.!?])\s+", reply) if reply else ():
            await self.push_frame(LLMTextFrame(f"{sentence} "))
            await asyncio.sleep(SENTENCE_S)
        await self.push_frame(LLMFullResponseEndFrame())


def answer(said: str) -> str:
    """The built-in responder's answer."""
    text = said.lower()
    if match := re.search(r"(\d+)\s*(plus|\+|minus|-|times|\*|x)\s*(\d+)", text):
        left, right = int(match[1]), int(match[3])
        sign = match[2]
        result = (
            left + right
            if sign in ("plus", "+")
            else left - right
            if sign in ("minus", "-")
            else left * right
        )
        return f"That makes {result}. Do you have another one for me?"
    if match := re.search(r"count to (\d+)", text):
        return ", ".join(str(n) for n in range(1, min(int(match[1]), 100) + 1)) + "."
    if match := re.search(r"(?:say|repeat)(?: after me)?:? (.+)", said, re.IGNORECASE):
        return match[1]
    now = datetime.datetime.now()
    for words, reply in (
        (("time",), f"It is {now:%H:%M} on my clock."),
        (("what day", "date"), f"Today is {now:%A}, {now:%B} {now.day}."),
        (("joke",), "Why did the model cross the road? It had seen it in the training data."
        " <laugh> I am sorry."),
        (("story", "long"), STORY),
        (("who are you", "your name"), "I am a small voice agent, and the voice you hear is made"
        " on your own machine."),
        (("how are you",), "I am well, thank you. How are you today?"),
        (("thank",), "You are very welcome. Is there anything else?"),
        (("stop", "quiet", "shut up"), ""),
        (("bye", "see you"), "Good bye. It was nice to talk with you."),
        (("help", "what can you"), "I can tell you the time, add numbers, count, tell a story, or"
        " say after you what you like."),
        (("hello", "hi ", "hey", "good morning"),
        "Hello there. What would you like to talk about?"),
    ):  # fmt: skip
        if any(word in f"{text} " for word in words):
            return reply
    heard = said.strip().rstrip(".!?") or "nothing"
    more = random.choice(
        ("Tell me more about it.", "What makes you say so?", "And how do you feel about that?")
    )
    return f"You said: {heard}. {more}"


STORY = (
    "Once there was a lighthouse at the end of a long road. Every evening a keeper climbed its"
    " stairs to light the lamp. One night the wind was so strong that no ship could find the"
    " harbour. The keeper rang a bell until the morning. When the sun came up, seven ships lay"
    " safely in the bay, and their crews sang all the way to the town."
)
