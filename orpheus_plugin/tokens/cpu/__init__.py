"""The token engine for a CPU: NumPy and numba, no torch."""
