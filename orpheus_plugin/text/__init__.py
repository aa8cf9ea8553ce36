"""Streamed text into utterances, and numbers and signs into words."""
