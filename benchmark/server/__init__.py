"""Measures a real server under load."""
