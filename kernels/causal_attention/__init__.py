"""Causal grouped-query attention within segments: jax's splash attention."""
