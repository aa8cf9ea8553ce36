"""Orpheus text-to-speech for LiveKit Agents.

    from orpheus_plugin.livekit import OrpheusTTS
    session = AgentSession(tts=OrpheusTTS(voice="tara"), ...)

Importing this loads no torch and starts nothing, so that LiveKit's fork server can preload it.
"""

from __future__ import annotations

import os
import threading

from livekit.agents import Plugin

from orpheus_plugin.livekit.load import load_fnc
from orpheus_plugin.livekit.log import logger
from orpheus_plugin.livekit.markup import ORPHEUS_SOUNDS, keep_out_of_transcripts
from orpheus_plugin.livekit.streams import OrpheusChunkedStream, OrpheusSynthesizeStream
from orpheus_plugin.livekit.tts import OrpheusTTS
from orpheus_plugin.version import __version__

TTS = OrpheusTTS


class OrpheusPlugin(Plugin):
    """Registered with LiveKit's worker: preloaded into job processes, and used by
    `download-files`."""

    def __init__(self) -> None:
        super().__init__(__name__, __version__, __name__, logger)

    def download_files(self) -> None:
        """Fetch the model that this machine's server would use. Not needed for a server on another
        machine."""
        if os.environ.get("ORPHEUS_URL"):
            return
        from orpheus_plugin import models

        models.download(models.choose())


if threading.current_thread() is threading.main_thread():
    # LiveKit refuses registration on other threads; a job thread that imports this late does not
    # need it.
    Plugin.register_plugin(OrpheusPlugin())

keep_out_of_transcripts(ORPHEUS_SOUNDS)

__all__ = [
    "TTS",
    "OrpheusChunkedStream",
    "OrpheusPlugin",
    "OrpheusSynthesizeStream",
    "OrpheusTTS",
    "__version__",
    "load_fnc",
]
