"""A turn whose servers are killed at twenty points while its text still arrives: every word is
spoken once, through the client and through both adapters."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator

import pytest
from pipecat.frames.frames import Frame, LLMTextFrame, TTSAudioRawFrame
from pipecat.processors.frame_processor import FrameDirection

from orpheus_plugin import livekit, pipecat
from orpheus_plugin.events import AudioChunk, TurnEnd, TurnStats, Word
from orpheus_plugin.models.files import ModelFiles
from orpheus_plugin.remote.engine import RemoteEngine
from tests.livekit.fakes import words as livekit_words
from tests.pipecat.conversations import reply, run
from tests.pipecat.conversations import text as pipecat_text
from tests.support.mortal_servers import MortalServers

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"),
    pytest.mark.timeout(240),
]

KILLS = 20
PIECE_S = 0.01
"""Between two words of the text."""
SENTENCE = 9
"""Words."""

WORDS = [f"{word}{'.' if n % SENTENCE == SENTENCE - 1 else ''}" for n, word in enumerate(
    ("one two three four five six seven eight nine ten eleven twelve dog fox hen cow " * 20).split()
)]  # fmt: skip
TEXT = " ".join(WORDS)


@pytest.fixture
async def servers(crafted_files: ModelFiles) -> AsyncIterator[MortalServers]:
    async with MortalServers(crafted_files) as servers:
        yield servers


@pytest.fixture
async def remote(servers: MortalServers) -> AsyncIterator[RemoteEngine]:
    engine = RemoteEngine(None, locate=servers.locate, resume_within_s=60)
    await engine.start()
    yield engine
    await engine.aclose()


class Killer:
    """Kills the server in use soon after the first sound of it, KILLS times.

    The text waits for the kills, two sentences ahead of them: however fast the servers are,
    something is left to say at each.
    """

    def __init__(self, servers: MortalServers, remote: RemoteEngine) -> None:
        self._servers = servers
        self._remote = remote
        self._chance = random.Random(7)
        self._samples = 0
        self._soon: asyncio.TimerHandle | None = None

    async def before_word(self, number: int) -> None:
        await asyncio.sleep(PIECE_S)
        while self._servers.kills < KILLS and number >= SENTENCE * (self._servers.kills + 2):
            await asyncio.sleep(PIECE_S)

    def heard(self, samples: int) -> None:
        self._samples += samples
        links = [link for live in self._remote._live() for link in live._links.values()]
        if self._soon or not links or self._servers.kills == KILLS:
            return
        progress = links[0]._progress
        if progress.resumed == self._servers.kills and self._samples > progress._begins_at:
            wait_s = self._chance.uniform(0, 0.1)
            self._soon = asyncio.get_running_loop().call_later(wait_s, self._kill)

    def _kill(self) -> None:
        self._soon = None
        self._servers.kill()


@pytest.fixture
def killer(servers: MortalServers, remote: RemoteEngine) -> Killer:
    return Killer(servers, remote)


async def test_the_client_says_every_word_once(remote: RemoteEngine, killer: Killer) -> None:
    turn = remote.open_turn()

    async def write() -> None:
        for number, word in enumerate(WORDS):
            await killer.before_word(number)
            turn.push_text(f"{word} ")
        turn.end()

    writing = asyncio.create_task(write())
    said: list[str] = []
    at, start_s = 0, 0.0
    async for event in turn:
        if isinstance(event, Word):
            said.append(event.text)
            assert event.start_s >= start_s
            start_s = event.start_s
        elif isinstance(event, AudioChunk):
            assert event.position == at
            at += event.samples
            killer.heard(event.samples)
        else:
            assert isinstance(event, TurnEnd)
            assert event.stats.resumed == KILLS
    await writing
    assert said == WORDS


async def test_livekits_adapter_says_every_word_once(
    servers: MortalServers, remote: RemoteEngine, killer: Killer
) -> None:
    events = []
    async with livekit.OrpheusTTS(engine=remote) as speech, speech.stream() as stream:

        async def write() -> None:
            for number, word in enumerate(WORDS):
                await killer.before_word(number)
                stream.push_text(f"{word} ")
            stream.end_input()

        writing = asyncio.create_task(write())
        async for event in stream:
            events.append(event)
            killer.heard(event.frame.samples_per_channel)
        await writing
    assert servers.kills == KILLS
    assert "".join(livekit_words(events)).split() == WORDS


async def test_pipecats_adapter_says_every_word_once(remote: RemoteEngine, killer: Killer) -> None:
    class Heard(pipecat.OrpheusTTS):
        words = 0

        async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            if isinstance(frame, LLMTextFrame):
                await killer.before_word(self.words)
                self.words += 1
            await super().process_frame(frame, direction)

        async def push_frame(
            self, frame: Frame, direction: FrameDirection = FrameDirection.DOWNSTREAM
        ) -> None:
            await super().push_frame(frame, direction)
            if isinstance(frame, TTSAudioRawFrame):
                killer.heard(len(frame.audio) // 2)

    tts = Heard(engine=remote)
    stats: list[TurnStats] = []

    async def note(service: pipecat.OrpheusTTS, context_id: str, ended: TurnStats) -> None:
        stats.append(ended)

    tts.add_event_handler("on_turn_stats", note)
    down, errors = await run(tts, reply(TEXT))
    assert sum(ended.resumed for ended in stats) == KILLS
    assert pipecat_text(down).split() == WORDS
    assert not errors
