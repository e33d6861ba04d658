"""A checkpoint becomes one rank's partition of a model."""
