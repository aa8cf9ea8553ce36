"""Fills the phrase cache before callers come, with texts that an agent often says."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

from orpheus_plugin.errors import GenerationFailed
from orpheus_plugin.tokens.phrases import PhraseCache
from orpheus_plugin.turn import Turn

logger = logging.getLogger(__name__)


async def prime(open_turn: Callable[[], Turn], cache: PhraseCache, texts: Iterable[str]) -> None:
    """Speak each text until the cache replays all of it. Takes as long as generating the new texts.

    A text without usable speech is left out with a warning. Raises the other errors of a turn.
    """
    began, before = time.monotonic(), cache.load().misses
    count = 0
    for text in filter(None, map(str.strip, texts)):
        count += 1
        for _ in range(cache.options.takes + 1):
            misses = cache.load().misses
            try:
                await _speak(open_turn(), text)
            except GenerationFailed as error:
                logger.warning("a phrase is not in the cache: %s", error)
                break
            if cache.load().misses == misses:
                break
    new = cache.load().misses - before
    seconds = time.monotonic() - began
    logger.info("phrase cache: %d texts, %d utterances new, in %.1f s", count, new, seconds)


async def _speak(turn: Turn, text: str) -> None:
    async with turn:
        turn.push_text(text)
        turn.end()
        async for _ in turn:
            pass
