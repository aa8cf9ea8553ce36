"""The codec's step for a CPU: NumPy and numba, no torch."""
