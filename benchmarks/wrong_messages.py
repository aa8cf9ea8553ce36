"""Messages that are cut short or made up, for the websockets of a server (`server_faults.py`)."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import aiohttp

from orpheus_plugin import protocol

Case = tuple[str, list[bytes | str]]
"""An endpoint, and what is sent there, as binary and text messages."""

ENDPOINTS = {
    "native": protocol.PATH,
    "unmute": "/api/tts_streaming?format=PcmMessagePack",
    "baseten": "/v1/websocket",
    "omni": "/v1/audio/speech/stream",
}


async def send_wrong(session: aiohttp.ClientSession, url: str, case: Case) -> str:
    """One connection with these messages; how the server ended it."""
    endpoint, messages = case
    try:
        async with session.ws_connect(url + ENDPOINTS[endpoint], max_msg_size=0) as ws:
            for message in messages:
                if isinstance(message, str):
                    await ws.send_str(message)
                else:
                    await ws.send_bytes(message)
            try:
                async with asyncio.timeout(0.05):
                    while not (await ws.receive()).type.value & 0x8:
                        pass
            except TimeoutError:
                return "left open"
            return f"closed {ws.close_code}"
    except aiohttp.WSServerHandshakeError as error:
        return f"refused {error.status}"
    except ConnectionError:
        return "cut"


async def truncated(session: aiohttp.ClientSession, url: str) -> Counter[str]:
    """How the server ended connections with each message cut short at each byte."""
    binary: list[tuple[str, dict[str, Any]]] = [
        ("native", {"type": "open", "id": "a", "options": {"voice": "tara", "seed": 3}}),
        ("native", {"type": "text", "id": "a", "text": "Hello there."}),
        ("native", {"type": "consumed", "id": "a", "samples": 300}),
        ("unmute", {"type": "Text", "text": "Hello there."}),
        ("unmute", {"type": "Voice", "embeddings": [0.5, 1.5], "shape": [1, 2]}),
        ("unmute", {"type": "Eos"}),
    ]
    text = [
        ("omni", '{"type": "session.config", "voice": "tara", "seed": 3}'),
        ("omni", '{"type": "input.text", "text": "Hello."}'),
        ("baseten", '{"voice": "tara", "seed": 3}'),
    ]
    cases: list[Case] = [
        (endpoint, [whole[:length]])
        for endpoint, message in binary
        for whole in (protocol.pack(message),)
        for length in range(len(whole))
    ]
    cases += [(name, [whole[:length]]) for name, whole in text for length in range(len(whole))]
    seen: Counter[str] = Counter()
    for start in range(0, len(cases), 16):
        ends = (send_wrong(session, url, case) for case in cases[start : start + 16])
        seen.update(await asyncio.gather(*ends))
    return seen


async def fuzz(session: aiohttp.ClientSession, url: str, cases: int, start: int) -> Counter[str]:
    """How the server ended the connections of so many cases that hypothesis made up from the seed
    `start`, sixteen at a time."""
    made = await asyncio.to_thread(_make, cases, start)
    seen: Counter[str] = Counter()
    for first in range(0, len(made), 16):
        batch = made[first : first + 16]
        async with asyncio.timeout(30):
            ends = await asyncio.gather(*(send_wrong(session, url, case) for case in batch))
        for case, end in zip(batch, ends, strict=True):
            assert end in ("left open", "closed 1000", "closed 1008", "closed 1011"), (end, case)
        seen.update(f"{endpoint} {end}" for (endpoint, _), end in zip(batch, ends, strict=True))
    return seen


def _make(cases: int, start: int) -> list[Case]:
    from hypothesis import HealthCheck, Phase, given, seed, settings

    made: list[Case] = []

    @seed(start)
    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(_cases())
    def keep(case: Case) -> None:
        made.append(case)

    keep()
    return made


def _cases() -> Any:
    """Messages of the protocols with wrong values, some of them cut short or with flipped bits;
    others are random bytes."""
    from hypothesis import strategies as st

    numbers = st.integers(-(2**63), 2**64 - 1) | st.floats()
    plain = st.none() | st.booleans() | numbers | st.text(max_size=20) | st.binary(max_size=20)
    odd = st.sampled_from(["a", "x" * 7_000, {"voice": "nobody"}, {"voice": [], "seed": -1}, 1e308])
    values = st.recursive(
        plain | odd,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=6,
    )
    kinds = st.sampled_from(
        ["open", "text", "flush", "end", "cancel", "consumed", "Text", "Eos", "Voice", "x", 7]
    )
    names = st.sampled_from(
        ["id", "text", "samples", "options", "format", "window_s", "embeddings", "voice"]
    )
    ids = st.sampled_from(["a", "a", "a", "b", "", 7])
    maps = st.builds(
        lambda kind, own, turn_id: {**own, "id": turn_id, "type": kind},
        kinds,
        st.dictionaries(names, values, max_size=4),
        ids,
    )
    whole = maps.map(protocol.pack)
    cut = st.builds(lambda data, where: data[: where % len(data)], whole, st.integers(0, 10_000))
    broken = st.builds(_flipped, whole, st.lists(st.integers(0, 80_000), min_size=1, max_size=3))
    texts = st.sampled_from(["__END__", "{}", "[]", '{"voice": 3}', '{"temperature": NaN}', "Hi."])
    tags = st.sampled_from(
        ["session.config", "input.text", "input.done", "voice.add", "voice.list"]
    )
    fields = st.dictionaries(
        st.sampled_from(["text", "voice", "speed", "stream_audio", "response_format", "seed"]),
        st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.just("pcm"),
        max_size=3,
    )
    json_maps = st.builds(lambda tag, own: json.dumps({**own, "type": tag}), tags, fields)
    message = (
        whole | cut | broken | st.binary(max_size=64) | texts | json_maps | st.text(max_size=40)
    )
    return st.tuples(st.sampled_from(sorted(ENDPOINTS)), st.lists(message, min_size=1, max_size=5))


def _flipped(data: bytes, places: list[int]) -> bytes:
    out = bytearray(data)
    for place in places:
        out[place // 8 % len(out)] ^= 1 << place % 8
    return bytes(out)
