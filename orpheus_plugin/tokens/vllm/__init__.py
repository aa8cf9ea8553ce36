"""Tokens from vLLM in this process, on a GPU or a CPU."""
