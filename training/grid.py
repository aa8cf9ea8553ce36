"""The teacher's time steps, and how its padding symbol is written here."""

from __future__ import annotations

UNIT = 600
"""Samples in one unit of the teacher's durations (25 ms)."""
HOP = 300
"""Samples in one step of the teacher's pitch and of our level track (12.5 ms)."""
PAD = "_"
"""The teacher's padding symbol (0) at both ends of a sentence."""
