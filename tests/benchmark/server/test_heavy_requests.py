"""The heaviest requests are as heavy as is allowed, and no limit stands in their way by chance."""

from __future__ import annotations

import pytest

from benchmark.server.heavy_requests import HeavyRequest, heavy_requests
from router.config import Limits
from router.http.json_body import MAX_BODY_VALUES, _exceeds_values

LENGTH = 32_768
REQUESTS = heavy_requests(LENGTH)
CROWDED = {"a million lists"}


@pytest.mark.parametrize("heavy", REQUESTS, ids=lambda heavy: heavy.name)
def test_a_heavy_request_passes_the_limits_of_size_and_values(heavy: HeavyRequest) -> None:
    assert len(heavy.body) <= Limits().payload_limit
    assert _exceeds_values(heavy.body, MAX_BODY_VALUES + LENGTH) == (heavy.name in CROWDED)


def test_each_has_a_name_of_its_own() -> None:
    assert len({heavy.name for heavy in REQUESTS}) == len(REQUESTS)
