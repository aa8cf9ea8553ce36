"""A websocket as bytes on a TCP connection, for clients that do what no library does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def frame(data: bytes | str, opcode: int | None = None) -> bytes:
    """One masked frame, as clients send them."""
    if opcode is None:
        opcode = TEXT if isinstance(data, str) else BINARY
    payload = data.encode() if isinstance(data, str) else data
    mask = os.urandom(4)
    if len(payload) < 126:
        head = struct.pack("!BB", 0x80 | opcode, 0x80 | len(payload))
    else:
        head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, len(payload))
    return head + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(payload))


@dataclass
class RawClient:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def reset(self) -> None:
        """Gone without a message, like a process that was killed."""
        self.writer.transport.abort()


@contextlib.asynccontextmanager
async def connected(port: int, path: str) -> AsyncIterator[RawClient]:
    """Upgraded, and not a byte read since."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        )
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert b" 101 " in head, head
        yield RawClient(reader, writer)
    finally:
        writer.close()
