"""Which tools a chat may call, and what follows for prompt, grammar and parsing. Pure.

`auto` leaves the output unconstrained and parses calls in the model's own format. If a call is
required, a grammar allows nothing else: `{"name": "f", "arguments": …}` under the tool's schema.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from router import exact_json
from router.errors import ToolError
from router.openai.parsing import tool_call_formats
from router.openai.parsing.call_values import Tools
from router.openai.parsing.tool_call_formats import ToolCallFormat
from router.openai.parsing.tool_calls import (
    ForcedCall,
    NoToolCalls,
    StreamedCalls,
    ToolCallParser,
)
from router.openai.request_models import ChatRequest, Tool
from router.text import grammar

DEFAULT_TOOL_PROMPT = (
    "Given the functions available, please respond with a JSON for a function call with its"
    " proper arguments that best answers the given prompt. Respond in the format"
    " {name: function name, parameters: dictionary of argument name and its value}."
    "Do not use variables."
)
"""TGI's `tool_prompt`, for templates without tools."""

_NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}
"""The schema of a function that declares no parameters."""
_WHITESPACE_OPTIONS = {"whitespace_pattern": "[ ]?"}


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools of one chat."""

    tools: tuple[Tool, ...] = ()
    """Tools that are put into the prompt."""
    required: tuple[Tool, ...] = ()
    """One of these must be called; if empty, the output is unconstrained."""
    parallel: bool = True

    @property
    def grammar(self) -> grammar.GrammarSource | None:
        """The grammar of a required call. Raises ValidationError."""
        if not self.required:
            return None
        rules = [f"call_{index}: {_call_rule(tool)}" for index, tool in enumerate(self.required)]
        start = " | ".join(f"call_{index}" for index in range(len(self.required)))
        return grammar.GrammarSource(
            grammar.GrammarKind.LARK, "\n".join((f"start: {start}", *rules))
        )

    def call_parser_factory(self, format: ToolCallFormat) -> Callable[[], ToolCallParser]:
        """Makes the parser of the calls in one choice."""
        if self.required:
            prefixes = {_call_prefix(tool): tool.function.name for tool in self.required}
            return lambda: ForcedCall(prefixes)
        if not self.tools:
            return NoToolCalls
        return lambda: StreamedCalls(format, self.schemas, self.max_calls)

    @property
    def schemas(self) -> Tools:
        """The JSON schema of each tool's arguments, by the tool's name; {} if it has none."""
        return {tool.function.name: tool.function.parameters or {} for tool in self.tools}

    @property
    def max_calls(self) -> int | None:
        """Maximum number of calls in one message; any further ones are dropped."""
        return None if self.parallel else 1

    def for_template(self) -> list[dict[str, Any]] | None:
        """The tools as in the request; None if there are none."""
        return [tool.model_dump(exclude_none=True) for tool in self.tools] or None


def resolve_tool_use(body: ChatRequest) -> ToolUse:
    """The tools and the choice in `body`. Raises ToolError."""
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
    required = tools if choice == "required" else (_find_chosen_tool(tools, choice),)
    return ToolUse(tools, required)


def tools_as_text(tools: Sequence[dict[str, Any]], prompt: str | None) -> str:
    """The text to append to the last message if the template does not support tools."""
    text = exact_json.dumps(tools).decode()
    return f"\n---\n{text}\n{DEFAULT_TOOL_PROMPT if prompt is None else prompt}"


def select_format(template: str, name: str = "auto") -> ToolCallFormat:
    """The format named `name`; for `auto` the one that the template uses."""
    return (
        tool_call_formats.detect_format(template)
        if name == "auto"
        else tool_call_formats.FORMATS[name]
    )


def _find_chosen_tool(tools: Sequence[Tool], choice: Any) -> Tool:
    name = choice if isinstance(choice, str) else choice.function.name
    chosen = next((tool for tool in tools if tool.function.name == name), None)
    if chosen is None:
        raise ToolError(f"Tool with name {name} not found")
    return chosen


def _call_prefix(tool: Tool) -> str:
    return f'{{"name": {_json_string(tool.function.name)}, "arguments": '


def _call_rule(tool: Tool) -> str:
    grammar.check_numbers(tool.function.parameters)
    parameters = tool.function.parameters
    schema = {
        **(_NO_PARAMETERS if parameters is None else parameters),
        "x-guidance": _WHITESPACE_OPTIONS,
    }
    if "type" not in schema:
        schema["type"] = "object"
    return f'{_json_string(_call_prefix(tool))} %json {exact_json.dumps(schema).decode()} "}}"'


def _json_string(text: str) -> str:
    return exact_json.dumps(text).decode()
