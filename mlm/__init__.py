"""Multilingual language models: from a web crawl to an aligned, evaluated model."""
