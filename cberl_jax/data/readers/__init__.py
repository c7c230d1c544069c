"""Readers of corpora, conversations and vectors, one module per format."""
