"""Measures what a server loses when its processes are killed or stopped."""
