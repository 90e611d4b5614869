"""Filters: pure functions that keep a text (None) or name the reason to drop it."""
