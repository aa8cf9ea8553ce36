"""The status page in a real browser: it plays speech, stops, and shows the server's state."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from orpheus_plugin.speech_engine import SpeechEngine
from tests.support.chromium import browse, find_chromium
from tests.support.servers import RunningTestServer, serving

needs_browser = pytest.mark.skipif(find_chromium() is None, reason="needs Chromium")


@needs_browser
async def test_it_plays_while_it_streams_and_stops_at_once(server: RunningTestServer) -> None:
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
async def test_it_asks_for_the_key_if_one_is_needed(engine: SpeechEngine) -> None:
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


@needs_browser
async def test_it_shows_words_waveform_and_figures_of_the_turn(server: RunningTestServer) -> None:
    async with browse(server.url) as page:
        await page.until("document.querySelectorAll('#tags button').length === 1")
        await page.run(
            "document.getElementById('text').value = 'Hello there. ';"
            "document.querySelector('#tags button').click();"
            "document.getElementById('speak').click()"
        )
        assert await page.run("document.getElementById('text').value.includes('<laugh>')")
        await page.until("document.querySelectorAll('#words span').length >= 2")
        await page.until("document.querySelector('#words span.now') !== null")
        await page.until("orpheus.stats !== null && !orpheus.busy")
        await page.until("document.querySelectorAll('#words span:not(.heard)').length === 0")
        assert await page.run("Math.max(...orpheus.peaks)") > 0
        for plot in ("ttfa", "rtfx", "turns"):
            await page.until(
                f"document.querySelector('#plot-{plot} circle, #plot-{plot} polyline') !== null",
                timeout_s=5,
            )


@needs_browser
async def test_its_snippets_contain_this_servers_address(server: RunningTestServer) -> None:
    async with browse(server.url) as page:
        await page.until("document.getElementById('state')?.textContent === 'ready'")
        await page.run(
            "document.getElementById('tab-speak').dispatchEvent("
            "new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true}))"
        )
        code = await page.run(
            "[...document.querySelectorAll('#view-connect pre')].map((pre) => pre.textContent)"
        )
    assert len(code) == 6
    assert all(str(server.port) in one for one in code)
    for snippet in code[:2]:
        compile(snippet, "snippet", "exec")


async def test_the_page_loads_nothing_from_other_hosts(server: RunningTestServer) -> None:
    async with aiohttp.ClientSession() as session:
        scripts = ("page", "player", "plots", "msgpack", "snippets")
        for path in ("/", "/page.css", *(f"/{name}.js" for name in scripts)):
            async with session.get(server.url + path) as response:
                assert response.status == 200
                assert "default-src 'none'" in response.headers["Content-Security-Policy"]
                body = await response.text()
                assert "http://" not in body
                assert "https://" not in body
