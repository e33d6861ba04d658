"""A cache never exceeds its bytes, and keeps what was used last."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shard.bounded_cache import BoundedCache


def cache(max_bytes: int) -> BoundedCache[int, bytes]:
    return BoundedCache(max_bytes, lambda _, value: len(value))


@given(
    max_bytes=st.integers(0, 30),
    puts=st.lists(st.tuples(st.integers(0, 5), st.binary(max_size=12)), max_size=40),
)
def test_the_values_never_exceed_the_bound(max_bytes: int, puts: list[tuple[int, bytes]]) -> None:
    values = cache(max_bytes)
    for key, value in puts:
        values.put(key, value)
        kept = [values.get(other) for other in range(6)]
        assert values.size == sum(len(each) for each in kept if each is not None) <= max_bytes
        assert len(values) == sum(each is not None for each in kept)
        assert values.get(key) == (value if len(value) <= max_bytes else None)


def test_the_least_recently_used_value_is_dropped_first() -> None:
    values = cache(6)
    for key in (1, 2, 3):
        values.put(key, b"xx")
    assert values.get(1) == b"xx"
    values.put(4, b"xx")
    assert [key for key in (1, 2, 3, 4) if values.get(key)] == [1, 3, 4]


def test_a_value_that_is_too_large_displaces_nothing() -> None:
    values = cache(6)
    values.put(1, b"xx")
    values.put(2, b"x" * 7)
    assert (values.get(1), values.get(2)) == (b"xx", None)


def test_a_value_is_built_once_while_it_is_kept() -> None:
    values, built = cache(4), list[int]()

    def build(key: int) -> bytes:
        built.append(key)
        return b"xx"

    for key in (1, 1, 2, 3, 1):
        values.get_or_build(key, lambda key=key: build(key))  # type: ignore[misc]
    assert built == [1, 2, 3, 1]
