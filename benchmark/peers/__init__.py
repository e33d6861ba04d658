"""Compares servers of the same model on the same machine, in turns."""
