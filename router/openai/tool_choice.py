"""Which tools a chat may call, and what that means for prompt, grammar and reading. Pure.

`auto` leaves the model free and reads the calls that its own format marks. Where a call is
demanded, a grammar admits nothing else: `{"name": "f", "arguments": …}` under the tool's schema.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from router.errors import ToolsInvalid
from router.openai.parsing import tool_call_formats
from router.openai.parsing.tool_call_formats import Format
from router.openai.parsing.tool_calls import Caller, Forced, NoCalls, caller
from router.openai.request_models import ChatBody, Tool
from router.text import grammar

PROMPT = (
    "Given the functions available, please respond with a JSON for a function call with its"
    " proper arguments that best answers the given prompt. Respond in the format"
    " {name: function name, parameters: dictionary of argument name and its value}."
    "Do not use variables."
)
"""TGI's `tool_prompt`, for templates that do not know tools."""

_ANY = {"type": "object"}
_BLANKS = {"whitespace_pattern": "[ ]?"}


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools of one chat."""

    tools: tuple[Tool, ...] = ()
    """Those that the model is told of."""
    demanded: tuple[Tool, ...] = ()
    """One of these must be called; none: the model is free."""
    parallel: bool = True

    @property
    def grammar(self) -> grammar.Source | None:
        """What a demanded call must match."""
        if not self.demanded:
            return None
        rules = [f"call_{place}: {_call(tool)}" for place, tool in enumerate(self.demanded)]
        start = " | ".join(f"call_{place}" for place in range(len(self.demanded)))
        return grammar.Source(grammar.Kind.LARK, "\n".join((f"start: {start}", *rules)))

    def caller(self, format: Format) -> Callable[[], Caller]:
        """Makes what finds the calls in one choice."""
        if self.demanded:
            heads = {_head(tool): tool.function.name for tool in self.demanded}
            return lambda: Forced(heads)
        return caller(format, self.names, self.most) if self.tools else NoCalls

    @property
    def names(self) -> frozenset[str]:
        """Of the tools."""
        return frozenset(tool.function.name for tool in self.tools)

    @property
    def most(self) -> int | None:
        """Calls of one answer beyond so many are dropped."""
        return None if self.parallel else 1

    def for_template(self) -> list[dict[str, Any]] | None:
        """The tools as the client wrote them."""
        return [tool.model_dump(exclude_none=True) for tool in self.tools] or None


def tool_use(body: ChatBody) -> ToolUse:
    """What `body` asks for. Raises ToolsInvalid."""
    tools = tuple(body.tools or ())
    choice = body.tool_choice
    if choice == "none":
        return ToolUse()
    if choice not in (None, "auto") and not tools:
        raise ToolsInvalid("`tool_choice` needs `tools`")
    kind = body.response_format.type if body.response_format else "text"
    if tools and kind != "text":
        raise ToolsInvalid("Grammar and tools are mutually exclusive")
    if choice in (None, "auto"):
        return ToolUse(tools, (), body.parallel_tool_calls)
    demanded = tools if choice == "required" else (_named(tools, choice),)
    return ToolUse(tools, demanded)


def described(tools: Sequence[dict[str, Any]], prompt: str | None) -> str:
    """What is added to the last message where the template does not know tools."""
    text = orjson.dumps(tools).decode()
    return f"\n---\n{text}\n{PROMPT if prompt is None else prompt}"


def format_of(template: str, name: str = "auto") -> Format:
    """The format named `name`; `auto`: that of the template."""
    return tool_call_formats.of(template) if name == "auto" else tool_call_formats.NAMES[name]


def _named(tools: Sequence[Tool], choice: Any) -> Tool:
    name = choice if isinstance(choice, str) else choice.function.name
    found = next((tool for tool in tools if tool.function.name == name), None)
    if found is None:
        raise ToolsInvalid(f"Tool with name {name} not found")
    return found


def _head(tool: Tool) -> str:
    return f'{{"name": {_quoted(tool.function.name)}, "arguments": '


def _call(tool: Tool) -> str:
    schema = {**(tool.function.parameters or _ANY), "x-guidance": _BLANKS}
    if "type" not in schema:
        schema["type"] = "object"
    return f'{_quoted(_head(tool))} %json {orjson.dumps(schema).decode()} "}}"'


def _quoted(text: str) -> str:
    return orjson.dumps(text).decode()
