"""The example agent in a real browser: Chromium opens Pipecat's page, connects, types, and records what it receives."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.pipecat.chromium import RECORD_RATE, Page, browse, find_chromium
from tests.pipecat.conversations import end_servers
from tests.pipecat.hearing import UNDERSTOOD, empty_frames, last_audible_s, understood

BOT = Path(__file__).parents[2] / "agent_examples" / "bot.py"
GREETING = "Hello there, and welcome. What would you like to talk about today? You can stop me at any time."

ROOM_TO_SPARE = 2.0
"""Seconds of speech per second that voice, browser and recogniser need on one machine, so that nothing comes late."""

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="Chromium is not installed")


@contextlib.asynccontextmanager
async def running_bot(log: Path) -> AsyncIterator[str]:
    """The bot as a user starts it, on a free port. Yields the page's address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OPENAI_", "ORPHEUS_"))}
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(BOT), "--port", str(port),
            stdout=out, stderr=out, env={**environment, "OMP_NUM_THREADS": "1", "ORPHEUS_STATE_DIR": str(log.parent)},
        )  # fmt: skip
    url = f"http://localhost:{port}/"
    try:
        await asyncio.wait_for(answers(url, process), 60)
        yield url
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 10)
        except TimeoutError:
            process.kill()
            await process.wait()
        end_servers(log.parent)


async def answers(url: str, process: asyncio.subprocess.Process) -> None:
    async with aiohttp.ClientSession() as session:
        while process.returncode is None:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(url) as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.2)
    raise RuntimeError(f"the bot ended with {process.returncode}")


async def connect(page: Page) -> None:
    button = "[...document.querySelectorAll('button')].find(b => b.innerText.trim() === 'Connect')"
    await page.until(f"Boolean({button})")
    await page.until(f"({button})?.click() ?? document.body.innerText.includes('Disconnect')")
    await page.until("window.__heard.began")


async def say(page: Page, text: str) -> None:
    """Type into the page's message field and send."""
    field = "document.querySelector('input[aria-label=Message],textarea[aria-label=Message]')"
    await page.until(f"{field} && !{field}.disabled")
    await page.run(f"{field}.focus()")
    await page.type(text)
    await page.press_enter()


async def silence(page: Page, for_s: float, timeout_s: float) -> None:
    """Until nothing has been audible for a while, after something was."""
    async with asyncio.timeout(timeout_s):
        while True:
            heard = await page.heard()
            last = last_audible_s(heard, RECORD_RATE)
            if last and len(heard) / RECORD_RATE - last > for_s:
                return
            await asyncio.sleep(0.3)


async def test_the_page_is_greeted_and_an_interruption_silences_the_agent(
    tmp_path: Path, real_time: float
) -> None:
    async with running_bot(tmp_path / "bot.log") as url, browse(url) as page:
        await connect(page)
        await silence(page, 1.5, 60)
        greeting = await page.heard()

        await say(page, "Tell me a long story.")
        await page.until("document.body.innerText.includes('lighthouse')")
        before = await page.position()
        async with asyncio.timeout(30):
            while (last_audible_s(await page.heard(before), RECORD_RATE) or 0.0) < 1.5:
                await asyncio.sleep(0.1)
        await say(page, "Stop.")
        await asyncio.sleep(2.5)
        heard = await page.heard()
        sent_s = await page.run("(window.__heard.sent['send-text'] - window.__heard.began) / 1000")

    assert understood(GREETING, greeting, RECORD_RATE) >= UNDERSTOOD
    holes = empty_frames(greeting, RECORD_RATE)
    print(f"\n{holes} empty 20 ms frames in the greeting as the browser received it")
    if real_time >= ROOM_TO_SPARE and os.environ.get("ORPHEUS_STRICT_TIMING"):
        assert holes == 0
    after = heard[int(sent_s * RECORD_RATE) :]
    assert len(after) > 2 * RECORD_RATE
    silent_after = last_audible_s(after, RECORD_RATE) or 0.0
    print(f"\nsilent in the browser {silent_after * 1000:.0f} ms after the interruption was sent")
    # 300 ms is what is wanted; a machine that is busy with the browser itself may take longer.
    assert silent_after < (0.3 if os.environ.get("ORPHEUS_STRICT_TIMING") else 1.5)
