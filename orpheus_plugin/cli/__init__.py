"""The command `orpheus-tts`."""
