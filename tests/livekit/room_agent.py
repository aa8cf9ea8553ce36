"""Run as a program: the example agent, in whose rooms another agent takes over when a caller asks for it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from livekit.agents import Agent, StopResponse, llm

sys.path.insert(0, str(Path(__file__).parents[2] / "agent_examples"))

import livekit_agent  # type: ignore[import-not-found]

TAKEN_OVER = "Here is another agent. How may I help?"


class Second(Agent):
    def __init__(self) -> None:
        super().__init__(instructions="Another agent.")

    async def on_enter(self) -> None:
        self.session.say(TAKEN_OVER)


class First(Agent):
    async def on_user_turn_completed(self, turn_ctx: Any, new_message: llm.ChatMessage) -> None:
        if "hand me over" in (new_message.text_content or ""):
            self.session.update_agent(Second())
            raise StopResponse


livekit_agent.Agent = First

if __name__ == "__main__":
    sys.exit(livekit_agent.main())
