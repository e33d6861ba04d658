"""Measurements are kept in the operator's folder, in the XDG cache, or not at all."""

from __future__ import annotations

from pathlib import Path

from shard.launch.measurement_folder import measurement_folder


def test_the_folder_is_set_or_in_the_cache_or_none() -> None:
    assert measurement_folder("none", {}) is None
    assert measurement_folder("/some/folder", {}) == Path("/some/folder")
    expected = Path("/cache/text-generation-laps/measurements")
    assert measurement_folder(None, {"XDG_CACHE_HOME": "/cache"}) == expected
    assert measurement_folder(None, {"XDG_CACHE_HOME": "relative"}) == Path.home().joinpath(
        ".cache", *expected.parts[2:]
    )
