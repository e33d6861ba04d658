"""Renders the Helm chart: the part of Go's templates and of Helm's functions that it uses.

Anything else raises, so the chart stays within what is rendered here as Helm would. Source:
https://pkg.go.dev/text/template and https://helm.sh/docs/chart_template_guide.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from typing import Any

import yaml

from tests.support.paths import ROOT

CHART = ROOT / "deploy" / "helm" / "tgi-laps"
ACTION = re.compile(r"(?:\s*\{\{-|\{\{)\s*(.*?)\s*(?:-\}\}\s*|\}\})", re.DOTALL)
Values = dict[str, Any]


def to_yaml(value: Any) -> str:
    return str(yaml.safe_dump(value, default_flow_style=False, sort_keys=True)).rstrip("\n")


def nindent(width: str, text: str) -> str:
    return "".join(f"\n{' ' * int(width)}{line}" for line in text.splitlines())


def quote(value: Any) -> str:
    return '"{}"'.format(str(value).replace("\\", "\\\\").replace('"', '\\"'))


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "toYaml": to_yaml,
    "nindent": nindent,
    "quote": quote,
    "add": lambda *terms: sum(map(int, terms)),
    "ne": lambda a, b: a != b,
    "or": lambda *values: next(filter(None, values), values[-1]),
    "printf": lambda form, *values: form % values,
}


def chart_values(**changes: Any) -> Values:
    """Return the chart's default values with `changes`."""
    return {**yaml.safe_load((CHART / "values.yaml").read_text()), **changes}


def render(values: Values, release: str = "tgi-laps") -> dict[str, Any]:
    """Return the chart's objects by kind. Raises KeyError for an unknown function or value."""
    root = {"Values": values, "Release": {"Name": release}}
    texts = [path.read_text() for path in sorted((CHART / "templates").glob("*.yaml"))]
    objects = [yaml.safe_load(_Template(text).render(root)) for text in texts]
    return {one["kind"]: one for one in objects}


class _Template:
    """One file, read from left to right."""

    def __init__(self, text: str) -> None:
        pieces = ACTION.split(text)
        self._pieces = list(zip(pieces[::2], [*pieces[1::2], "end"], strict=True))
        self._place = 0

    def render(self, root: Any) -> str:
        text = "".join(self._block(root, root, shown=True))
        assert self._place == len(self._pieces), "an `end` has no block"
        return text

    def _block(self, root: Any, dot: Any, *, shown: bool) -> Iterator[str]:
        """Yield the texts up to the block's `end` or `else`; nothing of a block not shown."""
        while True:
            text, action = self._pieces[self._place]
            self._place += 1
            if shown:
                yield text
            word, _, rest = action.partition(" ")
            if word in ("end", "else"):
                return
            if word in ("if", "with"):
                yield from self._conditional(word, rest, root, dot, shown)
            elif shown:
                yield str(evaluate(action, root, dot))

    def _conditional(self, word: str, rest: str, root: Any, dot: Any, shown: bool) -> Iterator[str]:
        value = evaluate(rest, root, dot) if shown else None
        inner = value if word == "with" else dot
        yield from self._block(root, inner, shown=shown and bool(value))
        if self._pieces[self._place - 1][1] == "else":
            yield from self._block(root, dot, shown=shown and not value)


def evaluate(pipeline: str, root: Any, dot: Any) -> Any:
    """Return the value of a pipeline; the result of each call is the next one's last argument."""
    piped: tuple[Any, ...] = ()
    for call in pipeline.split(" | "):
        words = shlex.split(call, posix=False)
        if words[0] in FUNCTIONS:
            arguments = (_operand(word, root, dot) for word in words[1:])
            piped = (FUNCTIONS[words[0]](*arguments, *piped),)
        else:
            assert not piped, call
            piped = (_operand(" ".join(words), root, dot),)
    return piped[0]


def _operand(word: str, root: Any, dot: Any) -> Any:
    if word == ".":
        return dot
    if not word.startswith("."):
        return word.strip('"')
    value = root
    *path, last = word[1:].split(".")
    for name in path:
        value = value[name]
    optional = path and path[-1] == "resources"  # may lack requests or limits
    return value.get(last) if optional else value[last]
