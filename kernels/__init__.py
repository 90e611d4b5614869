"""Kernels: what no library has, one folder an op, importing jax only."""
