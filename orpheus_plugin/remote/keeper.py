"""Keeps a connection to one speech server: opens it ahead of need, and again whenever it breaks.

Everything runs on the loop of its `RemoteEngine`; `connection` and `error` may be read from any
thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable

from orpheus_plugin.errors import ConnectionFailed, OrpheusError, without_login
from orpheus_plugin.remote.connection import Address, Connection, open_connection

logger = logging.getLogger(__name__)

Locate = Callable[[], Awaitable[Address]]


def always(address: Address) -> Locate:
    async def locate() -> Address:
        return address

    return locate


class Keeper:
    """Connects to one server, again and again until it is closed.

    Args:
        locate: asked for the address before each attempt.
        may_start_one: `locate` may start a server, so that a failed attempt is always followed by
            another.
        timeout_s: how long an attempt may take, and how long a server that answered before may be
            gone.
        changed: set after each change of the attributes.
        connected: called with each new connection.
        failed: called after each failed attempt.

    Attributes:
        connection: the last one, perhaps retired.
        error: why the last attempt failed; None once connected.
        attempts: number of failed ones.
        locating: whether `locate` runs, which may take as long as the start of a server.
        name: of the server, for messages.
    """

    def __init__(
        self,
        locate: Locate,
        *,
        may_start_one: bool,
        timeout_s: float,
        changed: asyncio.Event,
        connected: Callable[[Connection], None],
        failed: Callable[[], None],
    ) -> None:
        self.connection: Connection | None = None
        self.error: OrpheusError | None = None
        self.attempts = 0
        self.locating = False
        self.name = "the speech server"
        self._locate = locate
        self._may_start_one = may_start_one
        self._timeout_s = timeout_s
        self._changed = changed
        self._connected = connected
        self._failed = failed
        self._task: asyncio.Task[None] | None = None
        self._asked = asyncio.Event()  # a turn waits: shorten the pause between attempts
        self._there_at: float | None = None  # when it last answered, by time.monotonic()

    @property
    def live(self) -> Connection | None:
        """The connection, if it takes new turns."""
        last = self.connection
        return None if last is None or last.retired.is_set() else last

    @property
    def unreachable(self) -> bool:
        """Whether it is not worth waiting for this server after the last failure."""
        error = self.error
        if error is None or self.live is not None:
            return False
        return not error.retryable or not self._may_come_back(error)

    def keep(self) -> None:
        """Connect, unless connected; soon, if an attempt failed just now."""
        self._asked.set()
        if self._task is None:
            self.error = None
            self._task = asyncio.get_running_loop().create_task(
                self._keep(), name="orpheus-client-connection"
            )

    async def aclose(self) -> None:
        """End the attempts. A connection stays open; its own `run` ends it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _may_come_back(self, error: OrpheusError) -> bool:
        if self._may_start_one or (isinstance(error, ConnectionFailed) and error.server_busy):
            return True
        if self._there_at is None:
            return False
        return time.monotonic() - self._there_at < self._timeout_s

    async def _keep(self) -> None:
        pause = 0.1
        while True:
            self._asked.clear()
            try:
                connection = await self._connect()
            except OrpheusError as error:
                self._fail(error)
                if not error.retryable:
                    self._task = None  # the next `keep` tries again
                    return
                await self._pause(pause * random.uniform(0.7, 1.3))
                pause = min(2 * pause, 2.0)
                continue
            pause = 0.1
            self.connection, self.error = connection, None
            self._connected(connection)
            self._changed.set()
            await connection.retired.wait()
            self._there_at = time.monotonic()

    async def _pause(self, seconds: float) -> None:
        """Wait before the next attempt: 0.1 s if a turn waits for it, else `seconds`."""
        await asyncio.sleep(0.1)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._asked.wait(), max(0.0, seconds - 0.1))

    async def _connect(self) -> Connection:
        self.locating = True
        self._changed.set()
        try:
            address = await self._locate()
        except OrpheusError:
            raise
        except Exception as error:
            raise ConnectionFailed(f"no speech server was found: {error!r}") from error
        finally:
            self.locating = False
            self._changed.set()
        self.name = without_login(address.url)
        return await open_connection(address, timeout_s=self._timeout_s)

    def _fail(self, error: OrpheusError) -> None:
        if self.error is None or str(self.error) != str(error):
            logger.warning("no connection to the speech server: %s", error)
        if isinstance(error, ConnectionFailed) and not error.server_busy:
            error.never_reached = self._there_at is None and not self._may_start_one
        self.error = error
        self.attempts += 1
        self._failed()
        self._changed.set()
