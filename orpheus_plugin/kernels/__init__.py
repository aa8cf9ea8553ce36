"""Compiled arithmetic for a CPU, shared by the token engine and the codec. Importing one of its
modules loads numba."""
