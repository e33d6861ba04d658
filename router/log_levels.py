"""LOG_LEVEL as TGI has it: a filter of levels, such as `info,text_generation_router=debug`. Pure.

The part for a process wins over the part for all, and what is not understood changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "off": logging.CRITICAL + 1,
}
ROUTER_TARGETS = ("text_generation_router", "router")
SHARD_TARGETS = ("text_generation_server", "shard")
"""Targets of a filter that mean a router, and a shard."""


def effective_level(directives: str, targets: Sequence[str]) -> int:
    """The level that a filter gives to those of `targets`; INFO where it gives none."""
    named = dict(_parse_directive(part) for part in directives.lower().split(","))
    words = [*map(named.get, targets), named.get(""), "info"]
    return next(LEVELS[word] for word in words if word in LEVELS)


def _parse_directive(text: str) -> tuple[str, str]:
    target, equals, word = text.strip().rpartition("=")
    return (target.strip(), word.strip()) if equals else ("", word)
