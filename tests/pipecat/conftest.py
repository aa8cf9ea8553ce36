"""Pipecat logs to standard error by itself; a failing test shows its warnings only."""

from __future__ import annotations

import sys

import pytest

pytest.importorskip("pipecat.services.tts_service", reason="pipecat-ai is not installed")

from loguru import logger

logger.remove()
logger.add(lambda message: sys.stderr.write(message), level="WARNING")
