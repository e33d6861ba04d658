"""LoRA adapters: their configuration, their weights, and how they run next to a model's own."""
