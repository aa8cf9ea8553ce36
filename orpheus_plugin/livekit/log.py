"""The plugin's logger. Words of a caller or the agent are never in a message, only in `extra` under
`lk.pii.*`."""

import logging

logger = logging.getLogger("livekit.plugins.orpheus")
