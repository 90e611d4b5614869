"""Deduplication by URL and by line."""
