"""Compiled arithmetic for a CPU, shared by the token engine and the codec. Importing a module of it
loads numba."""
