"""How the router logs: to stderr, which the launcher shows, at the level that LOG_LEVEL names.

LOG_LEVEL may be one of TGI's filters, such as `info,text_generation_router=debug`: the part for
the router wins over the part for all, and what is not understood changes nothing.
"""

from __future__ import annotations

import logging

LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "off": logging.CRITICAL + 1,
}
OWN = ("text_generation_router", "router")
"""Targets of a filter that mean this process."""


def configure(directives: str) -> None:
    """Log to stderr from now on; `directives` is LOG_LEVEL's value."""
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=level(directives))


def level(directives: str) -> int:
    """The level that a filter gives the router; INFO where it gives none."""
    named = dict(_part(part) for part in directives.lower().split(","))
    words = [*map(named.get, OWN), named.get(""), "info"]
    return next(LEVELS[word] for word in words if word in LEVELS)


def _part(text: str) -> tuple[str, str]:
    target, equals, word = text.strip().rpartition("=")
    return (target.strip(), word.strip()) if equals else ("", word)
