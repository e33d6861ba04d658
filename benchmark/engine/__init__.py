"""The engine's speed beside transformers' own ways."""
