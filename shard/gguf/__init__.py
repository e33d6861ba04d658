"""GGUF files: which one is served, what its header says, and its conversion to a model folder."""
