"""Real public models for trials and tests, fetched as packages of the Python package index."""
