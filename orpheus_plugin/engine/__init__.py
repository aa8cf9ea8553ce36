"""Joins text, tokens and codec into turns, in this process."""

from orpheus_plugin.engine.config import EngineConfig

__all__ = ["EngineConfig"]
