"""Attention with T5's relative-position bias, without a [N, T, S] bias."""
