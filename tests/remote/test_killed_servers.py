"""A turn whose servers are killed at twenty points while its text still arrives: every word is
spoken once, through the client and through both adapters."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable

import pytest
from pipecat.frames.frames import Frame, TTSAudioRawFrame
from pipecat.processors.frame_processor import FrameDirection
from pipecat.tests.utils import SleepFrame

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
"""At most: an answer that comes in large pieces, as from a fast server, ends before. The tests ask
for half as many, and kill the sooner where an adapter joins pieces."""
PIECE_S = 0.01
"""Between two words of the text."""

WORDS = [f"{word}{'.' if n % 9 == 8 else ''}" for n, word in enumerate(
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


def killer(
    servers: MortalServers, remote: RemoteEngine, *, most: int = 12
) -> Callable[[int], None]:
    """To be called with the samples of every piece of audio: it kills a server when one to `most`
    pieces of its own were heard."""
    chance = random.Random(7)
    left = chance.randint(1, most)
    at = 0

    def heard(samples: int) -> None:
        nonlocal left, at
        at += samples
        links = [link for connection in remote._live() for link in connection._links.values()]
        if not links or links[0]._progress.resumed < servers.kills:
            return  # not resumed yet: this audio was already sent
        left -= at > links[0]._progress._begins_at
        if left == 0 and servers.kills < KILLS:
            servers.kill()
            left = chance.randint(1, most)

    return heard


async def test_the_client_says_every_word_once(
    servers: MortalServers, remote: RemoteEngine
) -> None:
    heard = killer(servers, remote)
    turn = remote.open_turn()

    async def write() -> None:
        for word in WORDS:
            turn.push_text(f"{word} ")
            await asyncio.sleep(PIECE_S)
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
            heard(event.samples)
        else:
            assert isinstance(event, TurnEnd)
            assert KILLS // 2 <= event.stats.resumed <= KILLS
    await writing
    assert said == WORDS


async def test_livekits_adapter_says_every_word_once(
    servers: MortalServers, remote: RemoteEngine
) -> None:
    heard = killer(servers, remote, most=2)
    events = []
    async with livekit.OrpheusTTS(engine=remote) as speech, speech.stream() as stream:

        async def write() -> None:
            for word in WORDS:
                stream.push_text(f"{word} ")
                await asyncio.sleep(PIECE_S)
            stream.end_input()

        writing = asyncio.create_task(write())
        async for event in stream:
            events.append(event)
            heard(event.frame.samples_per_channel)
        await writing
    assert servers.kills >= KILLS // 2
    assert "".join(livekit_words(events)).split() == WORDS


async def test_pipecats_adapter_says_every_word_once(
    servers: MortalServers, remote: RemoteEngine
) -> None:
    heard = killer(servers, remote, most=2)

    class Heard(pipecat.OrpheusTTS):
        async def push_frame(
            self, frame: Frame, direction: FrameDirection = FrameDirection.DOWNSTREAM
        ) -> None:
            await super().push_frame(frame, direction)
            if isinstance(frame, TTSAudioRawFrame):
                heard(len(frame.audio) // 2)

    tts = Heard(engine=remote)
    stats: list[TurnStats] = []

    async def note(service: pipecat.OrpheusTTS, context_id: str, ended: TurnStats) -> None:
        stats.append(ended)

    tts.add_event_handler("on_turn_stats", note)
    frames: list[Frame] = []
    for frame in reply(TEXT):
        frames += [frame, SleepFrame(sleep=PIECE_S)]
    down, errors = await run(tts, frames)
    assert servers.kills >= KILLS // 2
    assert KILLS // 2 <= sum(ended.resumed for ended in stats) <= servers.kills
    assert pipecat_text(down).split() == WORDS
    assert not errors
