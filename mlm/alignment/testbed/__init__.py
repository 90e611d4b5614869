"""Preference optimisation in small, judged by a scorer that no trainer sees."""
