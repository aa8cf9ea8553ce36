"""`livekit.plugins.orpheus`: the plugin under the name LiveKit's tools look for. It is
`orpheus_plugin.livekit`."""

from orpheus_plugin.livekit import TTS, OrpheusTTS, __version__, load_fnc

__all__ = ["TTS", "OrpheusTTS", "__version__", "load_fnc"]
