"""The status page in a real browser: it speaks, plays what comes, stops, and shows how the server does."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from orpheus_plugin.turn import SpeechEngine
from tests.support.chromium import browse, find_chromium
from tests.support.servers import RunningTestServer, serving

needs_browser = pytest.mark.skipif(find_chromium() is None, reason="needs Chromium")


@needs_browser
async def test_it_speaks_as_it_streams_and_stops_at_once(server: RunningTestServer) -> None:
    async with browse(server.url) as page:
        await page.until("document.getElementById('state')?.textContent === 'ready'")
        await page.until("document.getElementById('voice').options.length === 2")
        assert await page.run("document.getElementById('capacity').textContent") == "8"
        await page.run(
            "document.getElementById('text').value = 'Hello there. '.repeat(80);"
            "document.getElementById('voice').value = 'leo';"
            "document.getElementById('speak').click()"
        )
        await page.until("orpheus.samples > 24000")
        assert server.service.active_turns == 1
        assert (await page.run("document.getElementById('here').textContent")).endswith("ms")
        assert await page.run("orpheus.context.state") == "running"
        await page.run("document.getElementById('stop').click()")
        await page.until("document.getElementById('said').textContent === 'stopped'")
        assert await page.run("orpheus.nodes.size") == 0
        assert await page.run("document.getElementById('stop').disabled")
        async with asyncio.timeout(2):
            while server.service.active_turns:
                await asyncio.sleep(0.01)
        await page.run(
            "document.getElementById('text').value = 'Hello there.';"
            "document.getElementById('speak').click()"
        )
        said = await page.until(
            "document.getElementById('said').textContent.includes('of speech') &&"
            " document.getElementById('said').textContent"
        )
        assert float(said.split()[0]) > 0
        await page.until("document.getElementById('stop').disabled")  # all of it has been heard
        assert await page.until(
            "document.getElementById('ttfa').textContent.endsWith('ms')", timeout_s=5
        )


@needs_browser
async def test_it_asks_for_the_key_where_one_is_needed(engine: SpeechEngine) -> None:
    async with serving(engine, api_key="secret") as server, browse(server.url) as page:
        await page.until("document.getElementById('key-row')?.hidden === false")
        await page.run("document.getElementById('speak').click()")
        await page.until("document.getElementById('said').textContent.includes('API key')")
        await page.run(
            "document.getElementById('key').value = 'secret';"
            "document.getElementById('text').value = 'Hello.';"
            "document.getElementById('speak').click()"
        )
        await page.until("document.getElementById('said').textContent.includes('of speech')")


async def test_the_page_takes_nothing_from_elsewhere(server: RunningTestServer) -> None:
    async with aiohttp.ClientSession() as session:
        for path in ("/", "/page.css", "/page.js"):
            async with session.get(server.url + path) as response:
                assert response.status == 200
                assert "default-src 'none'" in response.headers["Content-Security-Policy"]
                body = await response.text()
                assert "http://" not in body
                assert "https://" not in body
