"""Calls in rooms of a real LiveKit server, with the example agent and the bundled voice, spoken by
a server of its own.

They need LiveKit's server: `go install github.com/livekit/livekit-server/cmd/server@v1.9.11`. Its
path is in LIVEKIT_SERVER, or it is on the PATH as livekit-server; without it they are skipped.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from orpheus_plugin.remote import registry
from tests.livekit.room_agent import TAKEN_OVER, livekit_agent
from tests.livekit.rooms import (
    ROOT,
    Worker,
    agents_environment,
    answers,
    calling,
    free_port,
    livekit_server,
    server_program,
    worker,
)

pytestmark = pytest.mark.skipif(
    server_program() is None and not os.environ.get("NEED_LIVEKIT"),
    reason="needs livekit-server on the PATH or in LIVEKIT_SERVER",
)

STORY = livekit_agent.answer("a story")
GREETING = livekit_agent.GREETING


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    folder = tmp_path_factory.mktemp("rooms")
    program = ("-m", "tests.livekit.room_agent", "start")
    with (
        livekit_server(folder) as url,
        worker(url, folder, program, "process initialized") as running,
    ):
        yield running


def report(name: str, **seconds: float) -> None:
    print(f"{name}:", ", ".join(f"{what} {value:.2f} s" for what, value in seconds.items()))


async def test_a_caller_is_greeted_answered_and_can_interrupt(agents: Worker) -> None:
    async with calling(agents.url) as caller:
        greeting_s = await caller.hears(caller.joined_at)
        await caller.caption(GREETING)
        await caller.quiet()
        answer_s = await caller.hears(await caller.type("tell me a story"))
        await asyncio.sleep(2)
        interrupted_at = await caller.type("bye")
        await caller.caption("Good bye. It was nice to talk with you.")
        [story] = [said for said in caller.said if said.startswith("Once there")]
        assert len(story) < len(STORY)
        assert STORY.startswith(story.strip())
    silent_s = caller.silent_after(interrupted_at)
    report("one room", greeting=greeting_s, answer=answer_s, silent=silent_s)
    if os.environ.get("ORPHEUS_STRICT_TIMING"):
        assert greeting_s < 2
        assert silent_s < 0.3


async def test_another_agent_takes_a_call_over(agents: Worker) -> None:
    async with calling(agents.url) as caller:
        await caller.caption(GREETING)
        await caller.quiet()
        asked_at = await caller.type("hand me over")
        await caller.caption(TAKEN_OVER)
        report("hand-off", heard=await caller.hears(asked_at))


async def test_two_rooms_are_greeted_and_answered_at_once(agents: Worker) -> None:
    async def call() -> tuple[float, float]:
        async with calling(agents.url) as caller:
            greeting_s = await caller.hears(caller.joined_at)
            await caller.caption(GREETING, within_s=120)
            await caller.quiet()
            answer_s = await caller.hears(await caller.type("Good morning"))
            await caller.caption("You said: Good morning.", within_s=120)
            return greeting_s, answer_s

    for greeting_s, answer_s in await asyncio.gather(call(), call()):
        report("two rooms", greeting=greeting_s, answer=answer_s)
        if os.environ.get("ORPHEUS_STRICT_TIMING"):
            assert greeting_s < 2


async def test_a_call_continues_when_the_speech_server_is_killed(
    agents: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORPHEUS_STATE_DIR", str(agents.state))
    async with calling(agents.url) as caller:
        await caller.caption(GREETING)
        await caller.quiet()
        [server] = registry.records()
        os.kill(server.pid, signal.SIGKILL)
        killed_at = time.monotonic()
        for _ in range(3):  # an answer given while no server is there may be lost
            asked_at = await caller.type("Good evening")
            with contextlib.suppress(TimeoutError):
                await caller.hears(asked_at, within_s=30)
                break
        await caller.caption("You said: Good evening.", within_s=120)
        report("killed server", answer=caller.sound_until() - killed_at)


async def test_the_smallest_agent_greets_its_caller(tmp_path: Path) -> None:
    program = ("agent_examples/livekit_hello.py", "dev")
    with livekit_server(tmp_path) as url, worker(url, tmp_path, program) as running:
        async with calling(running.url) as caller:
            report("smallest", greeting=await caller.hears(caller.joined_at))


async def test_the_pipecat_example_speaks_in_a_room(agents: Worker, tmp_path: Path) -> None:
    port = free_port()
    with livekit_server(tmp_path) as url:  # one that has no LiveKit worker
        bot = await asyncio.create_subprocess_exec(
            *(sys.executable, str(ROOT / "agent_examples/bot.py"), "-t", "livekit"),
            *("--port", str(port)),
            env=agents_environment(url, agents.state),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(120):
                while not answers(port):
                    await asyncio.sleep(0.1)
            async with (
                aiohttp.ClientSession() as session,
                session.post(
                    f"http://localhost:{port}/start", json={"transport": "livekit"}
                ) as answer,
            ):
                place = await answer.json()
            async with calling(place["url"], place["token"]) as caller:
                greeting_s = await caller.hears(caller.joined_at)
            report("Pipecat", greeting=greeting_s)
        finally:
            bot.terminate()
            await asyncio.wait_for(bot.wait(), 30)
