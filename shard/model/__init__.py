"""The model's forward over packed rows: transformers' own, fused, or in CUDA graphs."""
