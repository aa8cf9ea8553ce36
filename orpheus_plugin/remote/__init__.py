"""The client half of a speech server."""
