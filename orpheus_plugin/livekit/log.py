"""The plugin's logger. What a caller or the agent said never goes into a message, only into `extra`
under `lk.pii.*`."""

import logging

logger = logging.getLogger("livekit.plugins.orpheus")
