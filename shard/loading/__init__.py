"""Loads one rank's partition of a checkpoint as a model."""
