"""From a chat's messages to the text that its template renders, and what to look for afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson

from router.errors import ChatTemplateError, MissingTemplateVariable, ValidationError
from router.offload import offload
from router.openai import tool_choice
from router.openai.parsing import harmony, tool_call_formats
from router.openai.parsing.output import (
    DelegatingOutputParser,
    OutputParser,
    ReasoningSplitter,
    find_reasoning_tags,
)
from router.openai.parsing.tool_calls import KnownTools
from router.openai.request_models import ChatRequest, Message, ResponseFormat
from router.text import grammar
from router.text.chat_template import ChatTemplate
from router.text.job_errors import JobRejected, WorkerLimitExceeded
from router.text.worker_pool import WorkerPool


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A rendered chat, and how its answers are read."""

    text: str
    grammar: grammar.GrammarSource | None
    visible_special_tokens: frozenset[str]
    """Special tokens that the reading needs."""
    new_parser: Callable[[], OutputParser]
    """Makes what reads one choice."""


class ChatPromptBuilder:
    """Renders chats with the model's template; the work is done by `workers`."""

    def __init__(
        self, template: ChatTemplate | None, workers: WorkerPool, parser: str = "auto"
    ) -> None:
        """`parser`: the format of tool calls, `auto` or one of `formats.NAMES`."""
        self._workers = workers
        self._template_source = template.source if template else None
        self._template_has_tools = template is not None and template.uses_variable("tools")
        self._template_has_calls = template is not None and template.uses_variable("tool_calls")
        self._template_has_developer = template is not None and template.uses_variable("developer")
        source = self._template_source or ""
        self._format = tool_choice.select_format(source if self._template_has_tools else "", parser)
        self._reasoning_tags = find_reasoning_tags(source)

    async def build(self, body: ChatRequest, body_bytes: float) -> ChatPrompt:
        """The prompt of `body`, which had `size` bytes.

        Raises ToolError, TemplateFailed, VariableMissing or ValidationError.
        """
        use, wanted, variables = await offload(body_bytes, self._prepare, body)
        text = await self._render(variables)
        if wanted:
            return self._with_grammar(text, use, wanted)
        if self._format is tool_call_formats.HARMONY_FORMAT:
            known = partial(KnownTools, tool_call_formats.HARMONY_FORMAT, use.names, use.max_calls)
            return ChatPrompt(
                text,
                None,
                self._format.special_tokens,
                lambda: harmony.HarmonyParser(known(), text),
            )
        return self._unconstrained(text, use)

    def _with_grammar(
        self, text: str, tool_use: tool_choice.ToolUse, grammar_source: grammar.GrammarSource
    ) -> ChatPrompt:
        """The answer is what a grammar says, from its first token."""
        if self._format is tool_call_formats.HARMONY_FORMAT:
            text = harmony.with_final_header(text)
        caller = tool_use.call_parser_factory(tool_call_formats.JSON_FORMAT)
        return ChatPrompt(
            text, grammar_source, frozenset(), lambda: DelegatingOutputParser(None, caller())
        )

    def _unconstrained(self, text: str, tool_use: tool_choice.ToolUse) -> ChatPrompt:
        """The answer may reason, speak and call."""
        marks, read = (
            self._reasoning_tags,
            self._format if tool_use.tools else tool_call_formats.JSON_FORMAT,
        )
        shown, caller = (
            read.special_tokens | frozenset(marks or ()),
            tool_use.call_parser_factory(read),
        )

        def reply() -> DelegatingOutputParser:
            open = marks and ReasoningSplitter(marks, text.rstrip().endswith(marks[0]))
            return DelegatingOutputParser(open, caller())

        return ChatPrompt(text, None, shown, reply)

    def _prepare(
        self, body: ChatRequest
    ) -> tuple[tool_choice.ToolUse, grammar.GrammarSource | None, dict[str, Any]]:
        """The tools, what the answer must match, and what the template is told."""
        use = tool_choice.resolve_tool_use(body)
        wanted = use.grammar or _response_grammar(body.response_format)
        return use, wanted, self._template_variables(body, use)

    async def _render(self, variables: dict[str, Any]) -> str:
        if self._template_source is None:
            raise ChatTemplateError("template not found")
        try:
            return await self._workers.run_job("render", variables=variables)
        except JobRejected as fault:
            if fault.missing_variable is not None:
                raise MissingTemplateVariable(fault.missing_variable) from fault
            raise ChatTemplateError(str(fault)) from fault
        except WorkerLimitExceeded as fault:
            raise ChatTemplateError("it takes too much time or memory") from fault

    def _template_variables(
        self, body: ChatRequest, tool_use: tool_choice.ToolUse
    ) -> dict[str, Any]:
        messages = [
            _template_message(message, self._template_has_calls) for message in body.messages
        ]
        if not self._template_has_developer:
            messages = [_developer_to_system(message) for message in messages]
        listed = tool_use.for_template()
        if listed and not self._template_has_tools:
            more = tool_choice.tools_as_text(listed, body.tool_prompt)
            messages[-1] = {**messages[-1], "content": f"{messages[-1].get('content') or ''}{more}"}
            listed = None
        if self._format is tool_call_formats.HARMONY_FORMAT:
            messages = [harmony.template_message(message) for message in messages]
            listed = [harmony.with_description(tool) for tool in listed or ()] or None
        told = body.chat_template_kwargs.model_dump(exclude_none=True)
        if body.reasoning_effort is not None:
            told = {"reasoning_effort": body.reasoning_effort, **told}
        return {**told, "messages": messages, "tools": listed}


def _template_message(message: Message, template_has_calls: bool) -> dict[str, Any]:
    """The message as templates know it: text in one piece, calls with their arguments parsed.

    No text is None only beside calls, and only where the template reads them.
    """
    plain = message.model_dump(exclude_none=True)
    plain["content"] = _content_text(message)
    for call in plain.get("tool_calls", ()):
        arguments = call["function"].get("arguments")
        call["function"]["arguments"] = _parse_arguments(arguments)
    if plain["content"] is None and not (template_has_calls and plain.get("tool_calls")):
        plain["content"] = ""
    return plain


def _developer_to_system(message: dict[str, Any]) -> dict[str, Any]:
    """A developer's word, by the name that older templates have for it."""
    return {**message, "role": "system"} if message["role"] == "developer" else message


def _content_text(message: Message) -> str | None:
    if not isinstance(message.content, list):
        return message.content
    for part in message.content:
        if part.type.startswith("image"):
            raise ValidationError("image modality is not supported")
        if part.type not in ("text", "input_text", "output_text") or part.text is None:
            raise ValidationError(f"`{part.type[:40]}` is not supported as a part of a message")
    return "".join(part.text or "" for part in message.content)


def _parse_arguments(arguments: Any) -> Any:
    try:
        value = orjson.loads(arguments) if isinstance(arguments, str) else arguments
    except orjson.JSONDecodeError:
        return arguments
    return value if isinstance(value, dict) else arguments


def _response_grammar(response_format: ResponseFormat | None) -> grammar.GrammarSource | None:
    """What the answer must match. Raises ValidationError."""
    if response_format is None or response_format.type == "text":
        return None
    if response_format.type == "regex":
        return grammar.parse_grammar("regex", response_format.value)
    schema = response_format.value
    if response_format.json_schema is not None:
        schema = response_format.json_schema.schema_
    elif response_format.type == "json_schema" and isinstance(schema, dict) and "schema" in schema:
        schema = schema["schema"]
    if schema is None and response_format.type == "json_object":
        schema = {"type": "object"}
    return grammar.from_schema(schema)
