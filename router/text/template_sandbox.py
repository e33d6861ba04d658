"""The jinja sandbox in which chat templates run, with the helpers that transformers offers them.

A template is code from a model's repository: values are immutable, no attribute whose name starts
with an underscore can be reached, and nothing else is offered than what transformers offers.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from router import exact_json


def chat_template_environment() -> ImmutableSandboxedEnvironment:
    """Create the environment that compiles and renders chat templates."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # a prompt is not HTML
        extensions=[_GenerationTag, loopcontrols],
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
        "dict": _SafeDict(),
        "namespace": _Namespace,
    }
    return environment


class CallArguments(dict[str, Any]):
    """Arguments of a tool call: a mapping, which as text is JSON.

    Most templates read a mapping, but some concatenate the arguments as text, like DeepSeek's.
    """

    def __str__(self) -> str:
        return _to_json(self)

    def __add__(self, text: str) -> str:
        return str(self) + text

    def __radd__(self, text: str) -> str:
        return text + str(self)


class _Namespace(Namespace):
    """jinja's `namespace`, without names that start with an underscore."""

    def __init__(*args: Any, **attributes: Any) -> None:  # one of them may be called `self`
        self, *rest = args
        values = dict(*rest, **attributes)
        for name in values:
            _reject_private_name(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _reject_private_name(name)
        Namespace.__setitem__(self, name, value)


def _reject_private_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"{name!r} is not allowed as the name of an attribute")


class _GenerationTag(Extension):
    """`{% generation %}` marks the assistant's text for training; here it has no effect."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return the statements inside the tag."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _SafeDict:
    """`dict(...)`, without access to the type."""

    def __call__(self, *args: Any, **items: Any) -> dict[Any, Any]:
        return dict(*args, **items)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        """Same as `dict.fromkeys`."""
        return dict.fromkeys(*args)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON; jinja's own filter would escape it for HTML."""
    options: dict[str, Any] = {"ensure_ascii": ensure_ascii, "indent": indent}
    return exact_json.dumps_readable(value, **options, separators=separators, sort_keys=sort_keys)
