"""The listener's half of `watched`: starts the agent, opens its page in Chromium, types, and reads
the records."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import numpy.typing as npt

from orpheus_plugin.events import SAMPLE_RATE
from tests.pipecat.conversations import end_servers
from tests.support.chromium import Page

ROOT = Path(__file__).parents[2]
SENT_STEP = SAMPLE_RATE // 100


@contextlib.asynccontextmanager
async def watched_bot(folder: Path, *options: str) -> AsyncIterator[str]:
    """The bot as a user starts it, on a free port, watched. Yields the page's address; output goes
    to FOLDER/output."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OPENAI_", "ORPHEUS_"))}
    with (folder / "output").open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.pipecat.watched", str(folder), "--port", str(port),
            *options,
            stdout=out, stderr=out, cwd=ROOT,
            env={**environment, "OMP_NUM_THREADS": "1", "ORPHEUS_STATE_DIR": str(folder)},
        )  # fmt: skip
    url = f"http://localhost:{port}/"
    try:
        await asyncio.wait_for(answers(url, process), 120)
        yield url
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 10)
        except TimeoutError:
            process.kill()
            await process.wait()
        end_servers(folder)


async def answers(url: str, process: asyncio.subprocess.Process) -> None:
    """Until the process serves a page."""
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


async def silence(page: Page, for_s: float, timeout_s: float, since: int = 0) -> None:
    """Until nothing has been audible for a while, after something was."""
    async with asyncio.timeout(timeout_s):
        while True:
            last_s, silent_s = await page.audible(since)
            if last_s and silent_s > for_s:
                return
            await asyncio.sleep(0.2)


async def speech(page: Page, for_s: float, timeout_s: float, since: int) -> None:
    """Until a sample, and from then on this much, has been heard of a reply."""
    async with asyncio.timeout(timeout_s):
        while (await page.audible(since))[0] < for_s:
            await asyncio.sleep(0.05)


@dataclass(frozen=True)
class Record:
    """What `watched` has recorded so far.

    Attributes:
        events: in order.
        made: what the service pushed, mono s16le at 24 kHz.
        sent: int16 [n, 240]: what the WebRTC track gave away, in steps of 10 ms.
        sent_at: when, in seconds of time.time().
    """

    events: list[dict[str, Any]]
    made: npt.NDArray[np.int16]
    sent: npt.NDArray[np.int16]
    sent_at: npt.NDArray[np.float64]

    @classmethod
    def read(cls, folder: Path) -> Record:
        lines = (folder / "events").read_text("utf-8").splitlines()
        sent, sent_at = np.fromfile(folder / "sent", "<i2"), np.fromfile(folder / "sent.at")
        steps = min(len(sent) // SENT_STEP, len(sent_at))
        return cls(
            [json.loads(line) for line in lines],
            np.fromfile(folder / "made", "<i2"),
            sent[: steps * SENT_STEP].reshape(steps, SENT_STEP),
            sent_at[:steps],
        )

    def between(self, event: str, start: float = 0.0, end: float = float("inf")) -> list[Any]:
        return [e for e in self.events if e["event"] == event and start <= e["at"] < end]

    def replies(self) -> list[npt.NDArray[np.int16]]:
        """What was made, reply by reply."""
        starts = [int(e["position"]) for e in self.between("speech")]
        return np.split(self.made, starts[1:]) if starts else []
