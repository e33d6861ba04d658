"""Trains and reports on the bundled pair of models."""
