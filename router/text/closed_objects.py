"""Which keys the objects of a JSON schema may have, where all of them are named or match a pattern.

Keywords that combine schemas (`allOf`, `anyOf`, `oneOf`, a local `$ref`) are followed, since
llguidance merges what they say about keys with what lies next to them. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import unquote

from router.exact_json import nested_values

MAX_ALTERNATIVES = 256
"""Maximum number of combinations of the alternatives of one schema."""


class TooManyAlternatives(ValueError):
    """The alternatives of a schema have more than MAX_ALTERNATIVES combinations."""


@dataclass(frozen=True, slots=True)
class ObjectKeys:
    """The keys of an object: names, what matches a pattern, and others unless it is closed."""

    names: frozenset[str] = frozenset()
    patterns: frozenset[str] = frozenset()
    is_closed: bool = False

    def __and__(self, other: Self) -> ObjectKeys:
        """The keys of an object that both describe."""
        return ObjectKeys(
            self.names | other.names,
            self.patterns | other.patterns,
            self.is_closed or other.is_closed,
        )


def closed_objects(schema: Any) -> Iterator[ObjectKeys]:
    """Objects in `schema` that have named keys and patterns, and no others; each once.

    Raises TooManyAlternatives.
    """
    objects = (node for node in nested_values(schema) if isinstance(node, dict))
    found = {keys for node in objects for keys in _alternatives(node, schema, ())}
    return (keys for keys in found if keys.is_closed and keys.names and keys.patterns)


def _alternatives(node: Any, root: Any, path: tuple[int, ...]) -> set[ObjectKeys]:
    """The keys that `node` allows, one value for each combination of alternatives."""
    if not isinstance(node, dict) or id(node) in path:  # a schema may refer to itself
        return {ObjectKeys()}
    path = (*path, id(node))
    combined = {_own_keys(node)}
    for part in _conjuncts(node, root):
        combined = _combine(combined, _alternatives(part, root, path))
    for keyword in ("anyOf", "oneOf"):
        options = _items(node.get(keyword))
        if options:
            union = {keys for part in options for keys in _alternatives(part, root, path)}
            combined = _combine(combined, union)
    return combined


def _own_keys(node: dict[str, Any]) -> ObjectKeys:
    names = [*_mapping(node.get("properties")), *_items(node.get("required"))]
    patterns = _mapping(node.get("patternProperties"))
    return ObjectKeys(
        frozenset(name for name in names if isinstance(name, str)),
        frozenset(pattern for pattern, part in patterns.items() if part is not False),
        node.get("additionalProperties") is False,
    )


def _conjuncts(node: dict[str, Any], root: Any) -> Iterator[Any]:
    yield from _items(node.get("allOf"))
    reference = node.get("$ref")
    if isinstance(reference, str):
        yield _resolve(reference, root)


def _combine(left: set[ObjectKeys], right: set[ObjectKeys]) -> set[ObjectKeys]:
    combined = {one & other for one in left for other in right}
    if len(combined) > MAX_ALTERNATIVES:
        raise TooManyAlternatives
    return combined


def _resolve(reference: str, root: Any) -> Any:
    """The schema at a local JSON pointer (RFC 6901); None if there is none."""
    if not reference.startswith("#"):
        return None
    node = root
    for part in unquote(reference[1:]).split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(node, list) and name.isdecimal() and int(name) < len(node):
            node = node[int(name)]
        elif isinstance(node, dict):
            node = node.get(name)
        else:
            return None
    return node


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _items(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else ()
