"""The service with the real engines: in this process, and on a server."""

from __future__ import annotations

import asyncio
import socket

import pytest
from pipecat.frames.frames import ErrorFrame, Frame, InterruptionFrame, TTSSpeakFrame
from pipecat.tests.utils import SleepFrame
from pipecat.utils.errors import ErrorCategory

from orpheus_plugin.engine.local import LocalEngine
from orpheus_plugin.events import TurnStats
from orpheus_plugin.pipecat import OrpheusTTS
from orpheus_plugin.remote.engine import RemoteEngine
from tests.pipecat.conversations import THREE, kinds, reply, run, seconds, text
from tests.pipecat.tones import ToneEngine
from tests.support.servers import KeptOpen, break_connection, serving

LONG = " ".join([THREE] * 25)
"""More than the engine makes ahead of a listener, so an interruption always finds it speaking."""


async def test_all_audio_of_a_turn_and_all_its_words_arrive(crafted_engine: LocalEngine) -> None:
    seen: list[TurnStats] = []
    tts = OrpheusTTS(engine=crafted_engine)

    @tts.event_handler("on_turn_stats")
    async def note(service: OrpheusTTS, context_id: str, stats: TurnStats) -> None:
        seen.append(stats)

    down, errors = await run(tts, reply(THREE))
    assert text(down) == THREE
    assert seconds(down) == pytest.approx(seen[0].audio_s)
    assert kinds(down).count("TTSStartedFrame") == kinds(down).count("TTSStoppedFrame") == 1
    assert crafted_engine.health().active_turns == 0
    assert not errors


async def test_an_interruption_frees_the_engine_at_once(crafted_engine: LocalEngine) -> None:
    frames = [*reply(LONG), SleepFrame(sleep=0.2), InterruptionFrame(), SleepFrame(sleep=0.3)]
    free: list[int] = []

    class Watching(OrpheusTTS):
        async def on_audio_context_interrupted(self, context_id: str) -> None:
            await super().on_audio_context_interrupted(context_id)
            asyncio.get_running_loop().call_later(
                0.25, lambda: free.append(crafted_engine.health().active_turns)
            )

    down, errors = await run(Watching(engine=crafted_engine), [*frames, TTSSpeakFrame("Yes.")])
    assert free == [0]
    assert text(down).endswith("Yes.")
    assert not errors


async def test_more_replies_than_the_engine_has_places_wait_in_line_and_all_are_spoken(
    crafted_engine: LocalEngine,
) -> None:
    services = [
        OrpheusTTS(engine=crafted_engine) for _ in range(crafted_engine.health().max_turns + 2)
    ]
    results = await asyncio.gather(*(run(tts, reply("Hello there.")) for tts in services))
    assert [text(down) for down, _ in results] == ["Hello there."] * len(services)
    assert not any(errors for _, errors in results)


async def test_a_server_speaks_like_the_engine_in_this_process(
    crafted_engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(KeptOpen(crafted_engine), api_key="secret") as server:
        monkeypatch.setenv("ORPHEUS_URL", server.url)
        monkeypatch.setenv("ORPHEUS_API_KEY", "secret")
        warmed = await OrpheusTTS.warm()
        tts = OrpheusTTS(settings=OrpheusTTS.Settings(voice="leo"))
        assert tts.engine is warmed
        frames = [*reply(LONG), SleepFrame(sleep=0.2), InterruptionFrame(), SleepFrame(sleep=0.3)]
        down, errors = await run(tts, [*frames, *reply("Yes, I am here.")])
        assert text(down).endswith("Yes, I am here.")
        assert tts.settings.model == "crafted"
        assert crafted_engine.health().active_turns == 0
        assert not errors
        await warmed.aclose()
        another = OrpheusTTS(settings=OrpheusTTS.Settings(voice="leo"))
        down, errors = await run(another, reply("I am here again."))
        assert text(down) == "I am here again."
        assert not errors
        await another.engine.aclose()


async def test_a_reply_that_loses_its_server_continues_with_its_next_word(
    crafted_engine: LocalEngine,
) -> None:
    async with serving(KeptOpen(crafted_engine)) as server:
        remote = RemoteEngine(server.url)
        tts = OrpheusTTS(engine=remote)
        stats: list[TurnStats] = []

        @tts.event_handler("on_turn_stats")
        async def note(service: OrpheusTTS, context_id: str, ended: TurnStats) -> None:
            stats.append(ended)

        @tts.event_handler("on_tts_request")
        async def lose(service: OrpheusTTS, context_id: str, sentence: str) -> None:
            asyncio.get_running_loop().call_later(0.2, break_connection, remote)

        down, errors = await run(tts, [TTSSpeakFrame(LONG)])
        await remote.aclose()
    assert text(down) == LONG
    assert [ended.resumed for ended in stats] == [1]
    assert not errors


async def test_on_a_server_with_one_place_each_reply_gets_the_place_of_the_one_it_interrupts() -> (
    None
):
    async with serving(KeptOpen(ToneEngine(speed=2, max_turns=1, release_s=0.2))) as server:
        remote = RemoteEngine(server.url)
        frames: list[Frame] = []
        for _ in range(5):
            frames += [*reply(THREE), SleepFrame(sleep=0.5), InterruptionFrame()]
        down, errors = await run(OrpheusTTS(engine=remote), [*frames, *reply("Yes, I am here.")])
        await remote.aclose()
    assert text(down).endswith("Yes, I am here.")
    assert not errors


async def test_a_missing_server_is_a_connectivity_error_and_is_used_once_it_runs(
    crafted_engine: LocalEngine,
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    remote = RemoteEngine(f"http://127.0.0.1:{port}", connect_timeout_s=0.5)
    tts = OrpheusTTS(engine=remote)
    usable = asyncio.Event()

    @tts.event_handler("on_usable_changed")
    async def changed(service: OrpheusTTS, is_usable: bool) -> None:
        if is_usable:
            usable.set()

    async def talk() -> tuple[list[Frame], list[ErrorFrame]]:
        return await run(tts, [*reply("Hello there."), SleepFrame(sleep=4.0), *reply("Here I am.")])

    talking = asyncio.create_task(talk())
    await asyncio.sleep(1.0)
    async with serving(KeptOpen(crafted_engine), port=port):
        await asyncio.wait_for(usable.wait(), 10)
        down, errors = await talking
        await remote.aclose()
    assert errors[0].category is ErrorCategory.CONNECTIVITY
    assert text(down) == "Here I am."
