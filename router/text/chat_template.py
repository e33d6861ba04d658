"""Chat templates: which one a model has, and its text for a list of messages.

A template is code from a model's repository, so it runs in the sandbox that transformers gives it:
immutable values, no underscore names, and the same few helpers. Rendering may take for ever and
is therefore done in a worker process; here is no process, no loop and no HTTP.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError, UndefinedError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

_CONTINUATION_MARK = "\u2063end of the last message\u2063"
"""Marks where the text of a message that is to be continued ends."""


class JobRejected(Exception):
    """The template cannot render this; `variable` is what it lacks, if that is the cause."""

    def __init__(self, text: str, missing_variable: str | None = None) -> None:
        super().__init__(text)
        self.missing_variable = missing_variable


@dataclass(frozen=True)
class ChatTemplate:
    """A template's source and the special tokens that it may name."""

    source: str
    special_tokens: Mapping[str, str]
    """Such as `bos_token` and its text."""

    @classmethod
    def load(cls, folder: str, config: str | None = None) -> Self | None:
        """The template of the model in `folder`; None if it has none.

        `config` is read in place of the folder's `tokenizer_config.json`, and a template in it is
        preferred. Raises OSError, or ValueError for a template that does not parse, with its line.
        """
        values = _load_json(Path(config) if config else Path(folder, "tokenizer_config.json"))
        source = _template_source(Path(folder), values, own_config=config is None)
        if source is None:
            return None
        template = cls(
            source, {name: _token_text(values[name]) for name in values if _is_special_token(name)}
        )
        try:
            _ENVIRONMENT.parse(source)
        except TemplateSyntaxError as fault:
            raise ValueError(f"chat template, line {fault.lineno}: {fault.message}") from fault
        return template

    def uses_variable(self, variable: str) -> bool:
        """Whether the template reads `variable`."""
        return re.search(rf"\b{variable}\b", self.source) is not None

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """The prompt; a last message of the assistant is left open. Raises Refused.

        `messages` and `tools` are JSON values; `variables` are more that the template may read.
        """
        last = messages[-1]
        open_end = last["role"] == "assistant" and bool(last.get("content"))
        if open_end:
            messages = [*messages[:-1], {**last, "content": last["content"] + _CONTINUATION_MARK}]
        values = {**self.special_tokens, "documents": None, **variables}
        values |= {"messages": messages, "tools": tools, "add_generation_prompt": not open_end}
        text = self._render_text(values)
        if not open_end:
            return text
        head, mark, _ = text.rpartition(_CONTINUATION_MARK)
        if not mark:
            raise JobRejected("the template drops the message that is to be continued")
        return head.rstrip()

    @cached_property
    def _compiled(self) -> jinja2.Template:
        return _ENVIRONMENT.from_string(self.source)

    def _render_text(self, values: Mapping[str, Any]) -> str:
        try:
            return self._compiled.render(values)
        except UndefinedError as fault:
            missing = re.fullmatch(r"'(\w+)' is undefined", str(fault))
            raise JobRejected(str(fault), missing[1] if missing else None) from fault
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as fault:
            raise JobRejected(str(fault) or type(fault).__name__) from fault
        except (AttributeError, RecursionError, MemoryError) as fault:
            raise JobRejected(type(fault).__name__) from fault


class _Namespace(Namespace):
    """jinja's own, without names that reach into Python."""

    def __init__(*args: Any, **more: Any) -> None:  # a template may name an attribute `self`
        self, *rest = args
        values = dict(*rest, **more)
        for name in values:
            _reject_private_name(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _reject_private_name(name)
        Namespace.__setitem__(self, name, value)


def _reject_private_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"{name!r} is no name for a namespace")


class _GenerationTag(Extension):
    """`{% generation %}` marks the assistant's own words for training; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The statements inside."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _SafeDict:
    """`dict(...)`, without the type behind it."""

    def __call__(self, *args: Any, **more: Any) -> dict[Any, Any]:
        return dict(*args, **more)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        """As dict.fromkeys."""
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
    """Plain JSON: jinja's own filter escapes for HTML."""
    options: dict[str, Any] = {"ensure_ascii": ensure_ascii, "indent": indent}
    return json.dumps(value, **options, separators=separators, sort_keys=sort_keys)


def _environment() -> ImmutableSandboxedEnvironment:
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # a prompt is no HTML
        extensions=[_GenerationTag, loopcontrols],
    )
    made.filters["tojson"] = _to_json
    made.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
        "dict": _SafeDict(),
        "namespace": _Namespace,
    }
    return made


_ENVIRONMENT = _environment()


def _load_json(path: Path) -> dict[str, Any]:
    """The object in the file at `path`; empty if there is no file."""
    if not path.exists():
        return {}
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} is not a JSON object")
    return value


def _template_source(folder: Path, config: Mapping[str, Any], own_config: bool) -> str | None:
    """The template's text; a file of its own goes before the tokenizer's configuration."""
    told = config.get("chat_template")
    given = told if not own_config else None
    if given is None and (file := folder / "chat_template.jinja").exists():
        return file.read_text(encoding="utf-8")
    if given is None:
        given = _load_json(folder / "chat_template.json").get("chat_template", told)
    if isinstance(given, list):
        given = {entry["name"]: entry["template"] for entry in given}.get("default")
    return given if isinstance(given, str) else None


def _is_special_token(name: str) -> bool:
    return name.endswith("_token") and not name.startswith("add_")


def _token_text(token: Any) -> str:
    """The text of a special token, which may be given with its properties."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else ""
