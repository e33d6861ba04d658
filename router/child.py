"""The router as a child of the launcher: configuration in, events out, and its one fatal error."""

from __future__ import annotations

import json
from typing import Any

from router.config import Limits, RouterConfig, ServerConfig
from router.scheduler.config import SchedulerConfig


def parse_config(line: bytes) -> RouterConfig:
    """The configuration in a JSON `line`."""
    return build_config(json.loads(line))


def build_config(value: dict[str, Any]) -> RouterConfig:
    """The configuration in a JSON `value`; nested dataclasses are objects, tuples arrays."""
    nested = {
        "limits": Limits(**value["limits"]),
        "scheduler": SchedulerConfig(**value["scheduler"]),
        "server": parse_server_config(value["server"]),
        **{name: tuple(value[name]) for name in ("sockets", "adapters", "adapter_paths")},
    }
    return RouterConfig(**{**value, **nested})


def parse_server_config(value: dict[str, Any]) -> ServerConfig:
    """The part of the configuration for the server."""
    return ServerConfig(**{**value, "cors_allow_origin": tuple(value["cors_allow_origin"])})


def emit(**event: Any) -> None:
    """Send an event to the launcher: one JSON object as a line on stdout."""
    print(json.dumps(event), flush=True)


BAD_FLAG, BAD_MODEL, DEAD_SHARD = 2, 4, 8
"""Exit statuses of this process."""


class RouterStartupError(Exception):
    """The router cannot start or continue: an exit status, and one line on the cause and remedy."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
