"""The example agent in a real browser: Chromium opens Pipecat's page, connects, types, and records
what it receives."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from orpheus_plugin.events import SAMPLE_RATE
from tests.pipecat.hearing import (
    UNDERSTOOD,
    holes,
    last_audible_s,
    levels,
    understood,
    without_silence,
)
from tests.pipecat.listening import Record, connect, say, silence, speech, watched_bot
from tests.support.chromium import AUDIBLE, RECORD_RATE, browse, find_chromium

GREETING = (
    "Hello there, and welcome. What would you like to talk about today?"
    " You can stop me at any time."
)

STRICT = bool(os.environ.get("ORPHEUS_STRICT_TIMING"))
"""Also assert what holds only on a machine that is not busy."""

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="Chromium is not installed")


async def test_the_page_is_greeted_and_an_interruption_silences_the_agent(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    async with watched_bot(tmp_path) as url, browse(url) as page:
        await connect(page)
        await silence(page, 3.0, 120)
        greeting, concealed = await page.heard(), (await page.receiver())["concealedSamples"]
        greeted = Record.read(tmp_path)

        before = await page.position()
        await say(page, "Tell me a long story.")
        await speech(page, 1.5, 60, before)
        await say(page, "Stop.")
        await asyncio.sleep(2.5)
        heard, made_up = await page.heard(), (await page.receiver())["concealedSamples"]
        sent_s = await page.run("(window.__heard.sent['send-text'] - window.__heard.began) / 1000")
        record = Record.read(tmp_path)

    [made] = greeted.replies()
    assert understood(GREETING, made, SAMPLE_RATE) >= UNDERSTOOD
    # Nothing gets lost on its way from the agent to the page, but for what the browser itself says
    # it had to make up.
    lost_s = sum(holes(greeting, RECORD_RATE, greeted.sent.reshape(-1), SAMPLE_RATE))
    assert lost_s <= concealed / RECORD_RATE + 0.01
    late = holes(greeting, RECORD_RATE, made, SAMPLE_RATE)
    record_property("browser", f"{1e3 * sum(late):.0f} ms of the greeting's speech were silent")
    # A few gaps do not change the words. With many, on a slow machine, they cannot be recognised.
    if sum(late) < 0.25 * len(made) / SAMPLE_RATE:
        words = without_silence(greeting, RECORD_RATE)
        assert understood(GREETING, words, RECORD_RATE) >= UNDERSTOOD

    # The transport sends no more than it was just writing, and the page plays no more than was sent
    # and it made up.
    [*_, stopped] = record.between("transport silenced")
    story = record.sent[record.sent_at > stopped["at"]]
    assert (levels(story.reshape(-1), SAMPLE_RATE) > AUDIBLE).sum() <= 4
    audible = [
        float((levels(sound, rate) > AUDIBLE).sum()) / 100
        for sound, rate in ((heard, RECORD_RATE), (record.sent.reshape(-1), SAMPLE_RATE))
    ]
    assert audible[0] <= 1.05 * audible[1] + made_up / RECORD_RATE + 0.1
    silent_after_s = last_audible_s(heard[int(sent_s * RECORD_RATE) :], RECORD_RATE)
    record_property(
        "browser", f"silent {1e3 * silent_after_s:.0f} ms after the interruption was sent"
    )
    if STRICT:
        assert not [hole for hole in late if hole >= 0.02]
        assert silent_after_s < 0.3
