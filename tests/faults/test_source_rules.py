"""Rules of the source that have each been broken by an advisory about another server."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.paths import ROOT

SOURCES = {
    str(path.relative_to(ROOT)): ast.parse(path.read_text())
    for folder in ("router", "shard")
    for path in sorted((ROOT / folder).rglob("*.py"))
}
REVIEWED = {r"[ \t]*[\w!#$%&'*+.^`|~-]+[ \t]*(,[ \t]*[\w!#$%&'*+.^`|~-]+[ \t]*)*"}
"""Patterns with a repeat inside of a repeat that are linear: each turn begins with a comma."""


CALLS = [
    (path, ast.unparse(node.func), node)
    for path, tree in SOURCES.items()
    for node in ast.walk(tree)
    if isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute))
]


def calls(name: str) -> Iterator[tuple[str, ast.Call]]:
    """Every call of a function or method called `name`, with its file."""
    return ((path, call) for path, called, call in CALLS if called.rpartition(".")[2] == name)


def patterns() -> Iterator[tuple[str, str]]:
    """Every literal regular expression of the router, with its file."""
    for name in ("compile", "match", "search", "fullmatch", "findall", "sub", "split", "finditer"):
        for path, call in calls(name):
            if ast.unparse(call.func) != f"re.{name}" or not path.startswith("router/"):
                continue
            value = call.args[0].value if isinstance(call.args[0], ast.Constant) else None
            if isinstance(value, (str, bytes)):
                yield path, value if isinstance(value, str) else value.decode()


def nested_repeats(parsed: Any, *, repeated: bool = False) -> bool:
    """Whether an unbounded repeat that can give back contains another one."""
    for operator, argument in parsed:
        repeats = str(operator) in ("MAX_REPEAT", "MIN_REPEAT") and argument[1] > 1000
        if repeats and repeated:
            return True
        parts = argument if isinstance(argument, (tuple, list)) else (argument,)
        for part in [each for item in parts for each in (item if type(item) is list else [item])]:
            if hasattr(part, "pattern") or type(part).__name__ == "SubPattern":
                possessive = str(operator) in ("POSSESSIVE_REPEAT", "ATOMIC_GROUP")
                if nested_repeats(part, repeated=(repeated or repeats) and not possessive):
                    return True
    return False


def parse(pattern: str) -> Any:
    return getattr(re, "_parser").parse(pattern)  # noqa: B009  typeshed does not know it


def test_the_check_of_patterns_finds_those_that_backtrack() -> None:
    assert all(nested_repeats(parse(each)) for each in ("(a+)+b", "(.*a){20,}", "(?:x(y*)z*)*"))
    assert not any(nested_repeats(parse(each)) for each in ("a+b", "(ab)*", "((?>a+))*", "a*+b"))


def test_no_pattern_of_the_router_backtracks_without_bound() -> None:
    assert len(list(patterns())) > 20
    risky = {(path, each) for path, each in patterns() if nested_repeats(parse(each))}
    assert {(path, each) for path, each in risky if each not in REVIEWED} == set()


def test_remote_code_is_never_trusted() -> None:
    keywords = [
        (path, ast.unparse(keyword.value))
        for path, tree in SOURCES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "trust_remote_code"
    ]
    assert keywords
    assert {value for _, value in keywords} == {"False"}


def test_nothing_that_was_pickled_is_read() -> None:
    assert [path for path, call in calls("load") if ast.unparse(call.func) == "torch.load"] == []
    objects = ("broadcast_object_list", "all_gather_object", "gather_object", "scatter_object_list")
    assert [path for name in objects for path, _ in calls(name)] == []


def test_the_router_fetches_nothing_and_runs_no_text() -> None:
    names = ("ClientSession", "urlopen", "create_connection", "eval", "exec", "system", "popen")
    found = [(name, path) for name in names for path, _ in calls(name)]
    assert [(name, path) for name, path in found if path.startswith("router/")] == []


def test_keys_are_compared_in_constant_time() -> None:
    tree = SOURCES["router/http/access.py"]
    compared = [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.Eq, ast.NotEq, ast.In))
    ]
    assert [text for text in compared if "key" in text or "given" in text] == []
    assert list(calls("compare_digest"))


def test_the_sources_are_those_of_the_product() -> None:
    assert {Path(path).parts[0] for path in SOURCES} == {"router", "shard"}
