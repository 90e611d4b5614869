"""Input: seqio tasks, token-level mixtures, packed and prompt batches."""
