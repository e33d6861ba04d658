"""The router: HTTP, text and scheduling. It never imports torch."""

VERSION = "0.1.0"
"""The version of the project; the package's metadata is built from it."""
