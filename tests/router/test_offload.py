"""What is large is done in a thread, and what it raises is raised."""

from __future__ import annotations

import threading

import pytest

from router.offload import INLINE_LIMIT, offload


@pytest.mark.parametrize(
    ("size", "here"), [(0, True), (INLINE_LIMIT, True), (INLINE_LIMIT + 1, False)]
)
async def test_what_is_large_leaves_the_loop(size: int, here: bool) -> None:
    thread = await offload(size, threading.current_thread)
    assert (thread is threading.current_thread()) == here


@pytest.mark.parametrize("size", [0, INLINE_LIMIT + 1])
async def test_errors_come_through(size: int) -> None:
    with pytest.raises(ValueError, match="no number"):
        await offload(size, _fail, "no number")


def _fail(text: str) -> None:
    raise ValueError(text)
