"""Measured at start: what Steps and preemptions cost."""
