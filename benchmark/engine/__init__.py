"""The engine's speed compared with that of transformers."""
