"""From the messages of a chat to the prompt, and to the parser for the model's output.

The chat template decides which format of tool calls and which reasoning tags are expected.
Rendering runs in a worker process, because a template is a program.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from router.errors import ChatTemplateError, MissingTemplateVariable
from router.offload import offload
from router.openai import history, tool_choice
from router.openai.parsing import harmony, tool_call_formats
from router.openai.parsing.output import (
    DelegatingOutputParser,
    OutputParser,
    ReasoningSplitter,
    find_reasoning_tags,
)
from router.openai.parsing.tool_calls import KnownTools
from router.openai.request_models import ChatRequest, ResponseFormat
from router.requests.rules import require
from router.text import grammar
from router.text.chat_template import NO_TEMPLATE, ChatTemplate
from router.text.job_errors import JobRejected, WorkerLimitExceeded
from router.text.worker_pool import WorkerPool


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A rendered chat, and how the output is parsed."""

    text: str
    grammar: grammar.GrammarSource | None
    visible_special_tokens: frozenset[str]
    """Special tokens that the parser needs."""
    new_parser: Callable[[], OutputParser]
    """Makes the parser of one choice."""


class ChatPromptBuilder:
    """Renders chats with the model's template, in the worker processes of `workers`."""

    def __init__(
        self, template: ChatTemplate | None, workers: WorkerPool, parser: str = "auto"
    ) -> None:
        """`parser`: the format of tool calls, `auto` or a key of `tool_call_formats.FORMATS`."""
        self._workers = workers
        self._template_source = template.source if template else None
        self._template_has_tools = template is not None and template.uses_variable("tools")
        self._template_has_calls = template is not None and template.uses_variable("tool_calls")
        self._template_has_developer = template is not None and template.uses_variable("developer")
        source = self._template_source or ""
        self._format = tool_choice.select_format(source if self._template_has_tools else "", parser)
        self._reasoning_tags = find_reasoning_tags(source)

    async def build(self, body: ChatRequest, body_bytes: float) -> ChatPrompt:
        """The prompt of `body`, whose JSON was `body_bytes` long.

        Raises ToolError, ChatTemplateError, MissingTemplateVariable or ValidationError.
        """
        use, source, variables = await offload(body_bytes, self._prepare, body)
        text = await self._render(variables)
        if source:
            return self._with_grammar(text, use, source)
        if self._format is tool_call_formats.HARMONY_FORMAT:
            known = partial(KnownTools, use.schemas, use.max_calls)
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
        """A prompt whose output is constrained by a grammar from its first token."""
        if self._format is tool_call_formats.HARMONY_FORMAT:
            text = harmony.with_final_header(text)
        new_call_parser = tool_use.call_parser_factory(tool_call_formats.JSON_FORMAT)
        return ChatPrompt(
            text,
            grammar_source,
            frozenset(),
            lambda: DelegatingOutputParser(None, new_call_parser()),
        )

    def _unconstrained(self, text: str, tool_use: tool_choice.ToolUse) -> ChatPrompt:
        """A prompt whose output may hold reasoning, content and tool calls."""
        tags = self._reasoning_tags
        format = self._format if tool_use.tools else tool_call_formats.JSON_FORMAT
        visible = format.special_tokens | frozenset(tags or ())
        new_call_parser = tool_use.call_parser_factory(format)

        def new_parser() -> DelegatingOutputParser:
            splitter = tags and ReasoningSplitter(tags, text.rstrip().endswith(tags[0]))
            return DelegatingOutputParser(splitter, new_call_parser())

        return ChatPrompt(text, None, visible, new_parser)

    def _prepare(
        self, body: ChatRequest
    ) -> tuple[tool_choice.ToolUse, grammar.GrammarSource | None, dict[str, Any]]:
        """The tools, the grammar of the output, and the variables of the template."""
        use = tool_choice.resolve_tool_use(body)
        source = use.grammar or _response_grammar(body.response_format)
        return use, source, self._template_variables(body, use)

    async def _render(self, variables: dict[str, Any]) -> str:
        if self._template_source is None:
            raise ChatTemplateError(f"template not found; {NO_TEMPLATE}")
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
        messages = history.template_messages(
            body.messages,
            reads_calls=self._template_has_calls,
            reads_developer=self._template_has_developer,
        )
        tools = tool_use.for_template()
        if tools and not self._template_has_tools:
            suffix = tool_choice.tools_as_text(tools, body.tool_prompt)
            content = f"{messages[-1].get('content') or ''}{suffix}"
            messages[-1] = {**messages[-1], "content": content}
            tools = None
        if self._format is tool_call_formats.HARMONY_FORMAT:
            messages = [harmony.template_message(message) for message in messages]
            tools = [harmony.with_description(tool) for tool in tools or ()] or None
        else:
            messages = [history.with_reasoning_names(message) for message in messages]
        variables = body.chat_template_kwargs.model_dump(exclude_none=True) | _ending(body)
        if body.reasoning_effort is not None:
            variables = {"reasoning_effort": body.reasoning_effort, **variables}
        return {**variables, "messages": messages, "tools": tools}


def _ending(body: ChatRequest) -> dict[str, bool]:
    """How the prompt ends, where the body decides it. Raises ValidationError."""
    ending = {
        "add_generation_prompt": body.add_generation_prompt,
        "continue_final_message": body.continue_final_message,
    }
    are_exclusive = "`continue_final_message` and `add_generation_prompt` cannot both be true"
    require(not all(ending.values()), are_exclusive)
    return {name: value for name, value in ending.items() if value is not None}


def _response_grammar(response_format: ResponseFormat | None) -> grammar.GrammarSource | None:
    """The grammar that the output must match. Raises ValidationError."""
    if response_format is None or response_format.type == "text":
        return None
    if response_format.type == "regex":
        return grammar.parse_grammar("regex", response_format.value)
    schema = response_format.value
    if response_format.json_schema is not None:
        schema = response_format.json_schema.schema_
    elif response_format.schema_ is not None:
        schema = response_format.schema_
    elif response_format.type == "json_schema" and isinstance(schema, dict) and "schema" in schema:
        schema = schema["schema"]
    if schema is None and response_format.type == "json_object":
        schema = {"type": "object"}
    return grammar.from_schema(schema)
