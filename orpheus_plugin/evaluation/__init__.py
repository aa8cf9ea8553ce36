"""Evaluation of voices: sentences, a recogniser, a naturalness model, and one table."""
