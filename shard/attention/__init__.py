"""Attention over a paged KV cache, and the cache itself."""
