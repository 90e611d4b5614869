"""Decoding: sampled responses from a model given as init/apply/extend."""
