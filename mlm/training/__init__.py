"""Training: one loop, many losses."""
