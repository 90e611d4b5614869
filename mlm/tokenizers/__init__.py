"""SentencePiece tokenizers: sampling, training, counting, loading."""
