"""Which form an error has: that of the group below whose prefix the path lies."""

from __future__ import annotations

import pytest

from router.errors import native_error, openai_error
from router.http.route_group import RouteGroup, error_format_of

GROUPS = (RouteGroup(()), RouteGroup((), "/v1", openai_error))


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v1/models", "/v1/no/such/path"])
def test_a_path_below_a_prefix_has_the_form_of_its_group(path: str) -> None:
    assert error_format_of(path, GROUPS) is openai_error
    assert error_format_of(path, GROUPS[::-1]) is openai_error


@pytest.mark.parametrize("path", ["/", "/v10", "/generate", "/generate/v1"])
def test_every_other_path_has_the_native_form(path: str) -> None:
    assert error_format_of(path, GROUPS) is native_error
    assert error_format_of(path, GROUPS[1:]) is native_error
