"""TGI's LOG_LEVEL: a level, or a list of filters such as `info,text_generation_router=debug`. Pure.

A filter that names a process wins over one that does not. Unknown filters have no effect.
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
"""Filter targets that stand for the router, and for the shards."""


def effective_level(directives: str, targets: Sequence[str]) -> int:
    """The `logging` level that `directives` set for `targets`; INFO if they set none."""
    levels = dict(_parse_directive(part) for part in directives.lower().split(","))
    candidates = [*map(levels.get, targets), levels.get(""), "info"]
    return next(LEVELS[level] for level in candidates if level in LEVELS)


def _parse_directive(text: str) -> tuple[str, str]:
    target, equals, level = text.strip().rpartition("=")
    return (target.strip(), level.strip()) if equals else ("", level)
