"""Measures the engine in this process, against transformers' generation methods."""
