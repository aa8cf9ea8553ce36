"""Orpheus for Pipecat: `tts = OrpheusTTS()` in a pipeline. Importing this loads no torch."""

from orpheus_plugin.pipecat.settings import OrpheusTTSSettings
from orpheus_plugin.pipecat.tts import OrpheusTTS

OrpheusTTSService = OrpheusTTS
"""The name that Pipecat's convention for services asks for."""

__all__ = ["OrpheusTTS", "OrpheusTTSService", "OrpheusTTSSettings"]
