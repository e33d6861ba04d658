"""Which adapters requests may choose, which ranks must hold, and which goes out first."""

from __future__ import annotations

import pytest

from router.errors import ValidationError
from router.requests.adapters import AdapterRegistry, ServedAdapter


def registry(*loaded: str) -> AdapterRegistry:
    """One adapter of the command line, `fixed`, and others of 10 bytes."""
    made = AdapterRegistry(["fixed"], ["/fixed"])
    for name in loaded:
        made.add(ServedAdapter(made.new_number(), name, f"/{name}", 10, pinned=False))
    return made


def number(made: AdapterRegistry, name: str) -> int:
    adapter = made.find(name)
    assert adapter
    return adapter.number


def test_adapters_are_listed_in_the_order_of_their_numbers() -> None:
    made = registry("b", "a")
    made.acquire(number(made, "fixed"))
    assert made.names == ["fixed", "b", "a"]
    assert made.size == 20


def test_a_number_is_never_given_twice() -> None:
    made = registry("a")
    first = number(made, "a")
    made.remove("a")
    made.add(ServedAdapter(made.new_number(), "a", "/a", 10, pinned=False))
    assert number(made, "a") > first


def test_the_least_recently_used_goes_out_first() -> None:
    made = registry("a", "b")
    made.acquire(number(made, "a"))
    made.release(number(made, "a"))
    oldest = made.least_recently_used()
    assert oldest
    assert oldest.name == "b"


def test_adapters_in_use_and_those_of_the_command_line_do_not_go_out() -> None:
    made = registry("a")
    made.acquire(number(made, "a"))
    assert made.least_recently_used() is None


def test_a_removed_adapter_is_held_until_its_last_request_has_ended() -> None:
    made = registry("a")
    own = number(made, "a")
    made.acquire(own)
    made.acquire(own)
    assert made.remove("a") == []
    assert made.names == ["fixed"]
    assert made.release(own) == []
    assert own in [each.number for each in made]
    assert [each.number for each in made.release(own)] == [own]
    assert own not in [each.number for each in made]


def test_a_removed_adapter_takes_no_further_request() -> None:
    made = registry("a")
    own = number(made, "a")
    made.acquire(own)
    made.remove("a")
    with pytest.raises(ValidationError, match="has just been unloaded"):
        made.acquire(own)


def test_a_name_may_be_used_again_while_requests_of_its_old_adapter_run() -> None:
    made = registry("a")
    old = number(made, "a")
    made.acquire(old)
    made.remove("a")
    made.add(ServedAdapter(made.new_number(), "a", "/a", 10, pinned=False))
    with pytest.raises(ValidationError):
        made.acquire(old)
    assert [each.number for each in made.release(old)] == [old]
    assert made.names == ["fixed", "a"]
