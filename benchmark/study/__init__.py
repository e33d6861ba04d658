"""docs/study.md: its simulations, its plots and its tables."""
