"""Trains and measures the bundled pair of models."""
