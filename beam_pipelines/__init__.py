"""Corpus pipelines: crawled pages in, documents and their counts out."""
