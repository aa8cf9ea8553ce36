"""The codec's step in torch, for a GPU; on a CPU the reference of the compiled one."""
