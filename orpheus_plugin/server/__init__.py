"""`orpheus-tts serve`: one engine for every agent process, framework and language on a machine or
network."""
