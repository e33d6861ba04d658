"""Routes that are registered together, and the form that their errors have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from router.errors import RouterError, native_error

ErrorFormat = Callable[[RouterError], dict[str, Any]]
"""From an error to the JSON body that reports it."""


@dataclass(frozen=True, slots=True)
class RouteGroup:
    """The routes of one API, all below `prefix`."""

    routes: Sequence[web.RouteDef]
    prefix: str = ""
    """A path without a slash at its end; unknown paths below it have the group's errors too."""
    error_format: ErrorFormat = native_error
    request_id_headers: Sequence[str] = ()
    """Response headers that repeat `x-request-id` under the API's own name."""


def error_format_of(path: str, groups: Iterable[RouteGroup]) -> ErrorFormat:
    """The format of the group with the longest prefix of `path`; native where there is none."""
    return group_of(path, groups).error_format


def group_of(path: str, groups: Iterable[RouteGroup]) -> RouteGroup:
    """The group with the longest prefix of `path`; a native one where there is none."""
    matching = [group for group in groups if f"{path}/".startswith(f"{group.prefix}/")]
    return max(matching, key=lambda group: len(group.prefix), default=RouteGroup(()))
