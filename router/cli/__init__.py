"""Flags, configuration file and console output of the launcher. Only `launcher.py` imports it."""
