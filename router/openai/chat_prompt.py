"""From a chat's messages to the text that its template renders, and what to look for afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson

from router.errors import Invalid, TemplateFailed, VariableMissing
from router.offload import aside
from router.openai import tool_choice
from router.openai.parsing import harmony, tool_call_formats
from router.openai.parsing.output import Reader, Reply, Thinking, marks_of
from router.openai.parsing.tool_calls import Known
from router.openai.request_models import ChatBody, Message, ResponseFormat
from router.text import grammar
from router.text.chat_template import ChatTemplate, Refused
from router.text.worker_pool import Exhausted, Workers


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered chat, and how its answers are read."""

    text: str
    grammar: grammar.Source | None
    shown: frozenset[str]
    """Special tokens that the reading needs."""
    reply: Callable[[], Reader]
    """Makes what reads one choice."""


class Prompts:
    """Renders chats with the model's template; the work is done by `workers`."""

    def __init__(
        self, template: ChatTemplate | None, workers: Workers, parser: str = "auto"
    ) -> None:
        """`parser`: the format of tool calls, `auto` or one of `formats.NAMES`."""
        self._workers = workers
        self._source = template.source if template else None
        self._takes_tools = template is not None and template.names("tools")
        self._knows_calls = template is not None and template.names("tool_calls")
        self._knows_developers = template is not None and template.names("developer")
        source = self._source or ""
        self._format = tool_choice.format_of(source if self._takes_tools else "", parser)
        self._marks = marks_of(source)

    async def make(self, body: ChatBody, size: float) -> Prompt:
        """The prompt of `body`, which had `size` bytes.

        Raises ToolsInvalid, TemplateFailed, VariableMissing or Invalid.
        """
        use, wanted, variables = await aside(size, self._prepared, body)
        text = await self._render(variables)
        if wanted:
            return self._bound(text, use, wanted)
        if self._format is tool_call_formats.HARMONY:
            known = partial(Known, tool_call_formats.HARMONY, use.names, use.most)
            return Prompt(text, None, self._format.specials, lambda: harmony.Harmony(known(), text))
        return self._free(text, use)

    def _bound(self, text: str, use: tool_choice.ToolUse, wanted: grammar.Source) -> Prompt:
        """The answer is what a grammar says, from its first token."""
        if self._format is tool_call_formats.HARMONY:
            text = harmony.opened(text)
        caller = use.caller(tool_call_formats.PLAIN)
        return Prompt(text, wanted, frozenset(), lambda: Reply(None, caller()))

    def _free(self, text: str, use: tool_choice.ToolUse) -> Prompt:
        """The answer may reason, speak and call."""
        marks, read = self._marks, self._format if use.tools else tool_call_formats.PLAIN
        shown, caller = read.specials | frozenset(marks or ()), use.caller(read)

        def reply() -> Reply:
            open = marks and Thinking(marks, text.rstrip().endswith(marks[0]))
            return Reply(open, caller())

        return Prompt(text, None, shown, reply)

    def _prepared(
        self, body: ChatBody
    ) -> tuple[tool_choice.ToolUse, grammar.Source | None, dict[str, Any]]:
        """The tools, what the answer must match, and what the template is told."""
        use = tool_choice.tool_use(body)
        wanted = use.grammar or _grammar(body.response_format)
        return use, wanted, self._variables(body, use)

    async def _render(self, variables: dict[str, Any]) -> str:
        if self._source is None:
            raise TemplateFailed("template not found")
        try:
            return await self._workers.run("render", variables=variables)
        except Refused as fault:
            if fault.variable is not None:
                raise VariableMissing(fault.variable) from fault
            raise TemplateFailed(str(fault)) from fault
        except Exhausted as fault:
            raise TemplateFailed("it takes too much time or memory") from fault

    def _variables(self, body: ChatBody, use: tool_choice.ToolUse) -> dict[str, Any]:
        messages = [_message(message, self._knows_calls) for message in body.messages]
        if not self._knows_developers:
            messages = [_as_system(message) for message in messages]
        listed = use.for_template()
        if listed and not self._takes_tools:
            more = tool_choice.described(listed, body.tool_prompt)
            messages[-1] = {**messages[-1], "content": f"{messages[-1].get('content') or ''}{more}"}
            listed = None
        if self._format is tool_call_formats.HARMONY:
            messages = [harmony.turn(message) for message in messages]
            listed = [harmony.described(tool) for tool in listed or ()] or None
        told = body.chat_template_kwargs.model_dump(exclude_none=True)
        if body.reasoning_effort is not None:
            told = {"reasoning_effort": body.reasoning_effort, **told}
        return {**told, "messages": messages, "tools": listed}


def _message(message: Message, knows_calls: bool) -> dict[str, Any]:
    """The message as templates know it: text in one piece, calls with their arguments parsed.

    No text is None only beside calls, and only where the template reads them.
    """
    plain = message.model_dump(exclude_none=True)
    plain["content"] = _text(message)
    for call in plain.get("tool_calls", ()):
        arguments = call["function"].get("arguments")
        call["function"]["arguments"] = _object(arguments)
    if plain["content"] is None and not (knows_calls and plain.get("tool_calls")):
        plain["content"] = ""
    return plain


def _as_system(message: dict[str, Any]) -> dict[str, Any]:
    """A developer's word, by the name that older templates have for it."""
    return {**message, "role": "system"} if message["role"] == "developer" else message


def _text(message: Message) -> str | None:
    if not isinstance(message.content, list):
        return message.content
    for part in message.content:
        if part.type.startswith("image"):
            raise Invalid("image modality is not supported")
        if part.type not in ("text", "input_text", "output_text") or part.text is None:
            raise Invalid(f"`{part.type[:40]}` is not supported as a part of a message")
    return "".join(part.text or "" for part in message.content)


def _object(arguments: Any) -> Any:
    try:
        value = orjson.loads(arguments) if isinstance(arguments, str) else arguments
    except orjson.JSONDecodeError:
        return arguments
    return value if isinstance(value, dict) else arguments


def _grammar(asked: ResponseFormat | None) -> grammar.Source | None:
    """What the answer must match. Raises Invalid."""
    if asked is None or asked.type == "text":
        return None
    if asked.type == "regex":
        return grammar.read("regex", asked.value)
    schema = asked.value
    if asked.json_schema is not None:
        schema = asked.json_schema.schema_
    elif asked.type == "json_schema" and isinstance(schema, dict) and "schema" in schema:
        schema = schema["schema"]
    if schema is None and asked.type == "json_object":
        schema = {"type": "object"}
    return grammar.from_schema(schema)
