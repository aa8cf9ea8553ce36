"""Tokens from any server with an OpenAI-style completions endpoint."""
