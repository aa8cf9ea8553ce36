"""Run as a program: the example agent, in whose rooms another agent takes over when a caller asks
for it."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from livekit.agents import Agent, ModelSettings, llm

sys.path.insert(0, str(Path(__file__).parents[2] / "agent_examples"))

import livekit_agent as livekit_agent

PAUSE_S = 0.6
"""Before the answer to a caller who interrupts, so that the end of what was interrupted shows."""

TAKEN_OVER = "Here is another agent. How may I help?"


class Second(Agent):
    def __init__(self) -> None:
        super().__init__(instructions="Another agent.")

    async def on_enter(self) -> None:
        self.session.say(TAKEN_OVER)


class First(Agent):
    async def llm_node(
        self, chat_ctx: llm.ChatContext, tools: Any, model_settings: ModelSettings
    ) -> AsyncIterator[Any]:
        said = [message for message in chat_ctx.messages() if message.role == "user"]
        if said and "hand me over" in (said[-1].text_content or ""):
            self.session.update_agent(Second())
            return
        if said and "bye" in (said[-1].text_content or ""):
            await asyncio.sleep(PAUSE_S)
        async for chunk in Agent.default.llm_node(self, chat_ctx, tools, model_settings):
            yield chunk


livekit_agent.Agent = First  # type: ignore[attr-defined]
# A busy machine takes the calls of a test, too, but later.
livekit_agent.server.update_options(load_threshold=math.inf)

if __name__ == "__main__":
    sys.exit(livekit_agent.main())
