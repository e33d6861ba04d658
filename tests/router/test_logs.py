"""LOG_LEVEL is a filter as TGI has it."""

from __future__ import annotations

import logging

import pytest

from router.logs import level


@pytest.mark.parametrize(
    ("directives", "expected"),
    [
        ("", logging.INFO),
        ("debug", logging.DEBUG),
        ("WARN", logging.WARNING),
        ("info,text_generation_router=debug", logging.DEBUG),
        ("error,h2=trace", logging.ERROR),
        ("router = error", logging.ERROR),
        ("nonsense", logging.INFO),
        ("=,=x,,[span{field=1}]=debug", logging.INFO),
    ],
)
def test_the_routers_part_wins_and_nonsense_changes_nothing(directives, expected) -> None:
    assert level(directives) == expected
