"""Rows in groups, each times its group's matrix: jax's megablox kernels."""
