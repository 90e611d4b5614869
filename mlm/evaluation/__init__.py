"""Evaluation: bits per byte, generations, win rates and the report, by language."""
