"""Which tools a chat may call, and what that means for prompt, grammar and reading. Pure.

`auto` leaves the model free and reads the calls that its own format marks. Where a call is
demanded, a grammar admits nothing else: `{"name": "f", "arguments": …}` under the tool's schema.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from router.errors import ToolError
from router.openai.parsing import tool_call_formats
from router.openai.parsing.tool_call_formats import ToolCallFormat
from router.openai.parsing.tool_calls import (
    ForcedCall,
    NoToolCalls,
    ToolCallParser,
    tool_call_parser_factory,
)
from router.openai.request_models import ChatRequest, Tool
from router.text import grammar

DEFAULT_TOOL_PROMPT = (
    "Given the functions available, please respond with a JSON for a function call with its"
    " proper arguments that best answers the given prompt. Respond in the format"
    " {name: function name, parameters: dictionary of argument name and its value}."
    "Do not use variables."
)
"""TGI's `tool_prompt`, for templates that do not know tools."""

_ANY_OBJECT = {"type": "object"}
_WHITESPACE_OPTIONS = {"whitespace_pattern": "[ ]?"}


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools of one chat."""

    tools: tuple[Tool, ...] = ()
    """Those that the model is told of."""
    required: tuple[Tool, ...] = ()
    """One of these must be called; none: the model is free."""
    parallel: bool = True

    @property
    def grammar(self) -> grammar.GrammarSource | None:
        """What a demanded call must match."""
        if not self.required:
            return None
        rules = [f"call_{place}: {_call_rule(tool)}" for place, tool in enumerate(self.required)]
        start = " | ".join(f"call_{place}" for place in range(len(self.required)))
        return grammar.GrammarSource(
            grammar.GrammarKind.LARK, "\n".join((f"start: {start}", *rules))
        )

    def call_parser_factory(self, format: ToolCallFormat) -> Callable[[], ToolCallParser]:
        """Makes what finds the calls in one choice."""
        if self.required:
            heads = {_call_prefix(tool): tool.function.name for tool in self.required}
            return lambda: ForcedCall(heads)
        return (
            tool_call_parser_factory(format, self.names, self.max_calls)
            if self.tools
            else NoToolCalls
        )

    @property
    def names(self) -> frozenset[str]:
        """Of the tools."""
        return frozenset(tool.function.name for tool in self.tools)

    @property
    def max_calls(self) -> int | None:
        """Calls of one answer beyond so many are dropped."""
        return None if self.parallel else 1

    def for_template(self) -> list[dict[str, Any]] | None:
        """The tools as the client wrote them."""
        return [tool.model_dump(exclude_none=True) for tool in self.tools] or None


def resolve_tool_use(body: ChatRequest) -> ToolUse:
    """What `body` asks for. Raises ToolError."""
    tools = tuple(body.tools or ())
    choice = body.tool_choice
    if choice == "none":
        return ToolUse()
    if choice not in (None, "auto") and not tools:
        raise ToolError("`tool_choice` needs `tools`")
    kind = body.response_format.type if body.response_format else "text"
    if tools and kind != "text":
        raise ToolError("Grammar and tools are mutually exclusive")
    if choice in (None, "auto"):
        return ToolUse(tools, (), body.parallel_tool_calls)
    demanded = tools if choice == "required" else (_find_chosen_tool(tools, choice),)
    return ToolUse(tools, demanded)


def tools_as_text(tools: Sequence[dict[str, Any]], prompt: str | None) -> str:
    """What is added to the last message where the template does not know tools."""
    text = orjson.dumps(tools).decode()
    return f"\n---\n{text}\n{DEFAULT_TOOL_PROMPT if prompt is None else prompt}"


def select_format(template: str, name: str = "auto") -> ToolCallFormat:
    """The format named `name`; `auto`: that of the template."""
    return (
        tool_call_formats.detect_format(template)
        if name == "auto"
        else tool_call_formats.FORMATS[name]
    )


def _find_chosen_tool(tools: Sequence[Tool], choice: Any) -> Tool:
    name = choice if isinstance(choice, str) else choice.function.name
    found = next((tool for tool in tools if tool.function.name == name), None)
    if found is None:
        raise ToolError(f"Tool with name {name} not found")
    return found


def _call_prefix(tool: Tool) -> str:
    return f'{{"name": {_json_string(tool.function.name)}, "arguments": '


def _call_rule(tool: Tool) -> str:
    schema = {**(tool.function.parameters or _ANY_OBJECT), "x-guidance": _WHITESPACE_OPTIONS}
    if "type" not in schema:
        schema["type"] = "object"
    return f'{_json_string(_call_prefix(tool))} %json {orjson.dumps(schema).decode()} "}}"'


def _json_string(text: str) -> str:
    return orjson.dumps(text).decode()
