"""Checkpoints: saving, restoring and comparing trees of arrays."""
