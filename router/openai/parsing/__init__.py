"""Parses model output into reasoning, content and tool calls."""
