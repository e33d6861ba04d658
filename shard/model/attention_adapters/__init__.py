"""Attention modules of architectures that do not use transformers' attention interface."""
