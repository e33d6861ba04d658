"""The router: HTTP, text and scheduling. It loads no torch."""

VERSION = "0.1.0"
