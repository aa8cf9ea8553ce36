"""A small batched Llama in torch, for machines without vLLM."""
