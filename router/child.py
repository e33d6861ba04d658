"""The one error with which the router refuses to start, or ends."""

from __future__ import annotations

import json
from typing import Any

from router.config import Limits, RouterConfig, ServerConfig
from router.scheduler.config import SchedulerConfig


def parse_config(line: bytes) -> RouterConfig:
    """The configuration in a JSON `line`; nested dataclasses are objects, tuples arrays."""
    value = json.loads(line)
    nested = {
        "limits": Limits(**value["limits"]),
        "scheduler": SchedulerConfig(**value["scheduler"]),
        "server": parse_server_config(value["server"]),
        "sockets": tuple(value["sockets"]),
    }
    return RouterConfig(**{**value, **nested})


def parse_server_config(value: dict[str, Any]) -> ServerConfig:
    """The same of the part for the server."""
    return ServerConfig(**{**value, "cors_allow_origin": tuple(value["cors_allow_origin"])})


def emit(**event: Any) -> None:
    """Tell the launcher."""
    print(json.dumps(event), flush=True)


FAILED, BAD_FLAG, BAD_MODEL, DEAD_SHARD = 1, 2, 4, 8
"""Exit statuses of the faults that this process can meet."""


class RouterStartupError(Exception):
    """The router cannot start or go on: an exit status, and one line on cause and cure."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
