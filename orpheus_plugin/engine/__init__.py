"""Joins text, tokens and codec into turns, in this process."""
