"""Chat templates: which template a model has, and the prompt it renders for a list of messages.

Rendering may never end, so the router does it in a worker process. Nothing here knows of processes,
the event loop or HTTP.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import jinja2
from jinja2.exceptions import TemplateError, TemplateSyntaxError, UndefinedError

from router.text.job_errors import JobRejected
from router.text.template_sandbox import CallArguments, chat_template_environment

NO_TEMPLATE = (
    "the model has no chat template: start the server with `--tokenizer-config-path FILE`, a JSON"
    " object with a `chat_template`, or send a prompt to /v1/completions or /generate"
)
"""What clients and operators read about a model without a chat template."""
_ENVIRONMENT = chat_template_environment()
_CONTINUATION_MARK = "\u2063end of the last message\u2063"
"""Appended with a space to a message that the model continues, to find its end in the text."""


@dataclass(frozen=True)
class ChatTemplate:
    """A template's source, and the special tokens that it may use."""

    source: str
    special_tokens: Mapping[str, str]
    """Text by name, such as `bos_token`."""

    @classmethod
    def load(cls, folder: str, config: str | None = None) -> Self | None:
        """Load the template of the model in `folder`; None if it has none.

        `config` is a file that replaces the folder's `tokenizer_config.json`; a template in it
        takes precedence over every file in the folder. Raises OSError for a file that cannot be
        read, and ValueError for one that is not valid, with the line if it is a template.
        """
        values = _load_json(Path(config) if config else Path(folder, "tokenizer_config.json"))
        source = _template_source(Path(folder), values, prefer_config=config is not None)
        if source is None:
            return None
        try:
            _ENVIRONMENT.parse(source)
        except TemplateSyntaxError as error:
            raise ValueError(f"chat template, line {error.lineno}: {error.message}") from error
        return cls(
            source, _special_tokens(values, _load_json(Path(folder, "special_tokens_map.json")))
        )

    def uses_variable(self, variable: str) -> bool:
        """Whether the template mentions `variable`."""
        return re.search(rf"\b{variable}\b", self.source) is not None

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool | None = None,
        **variables: Any,
    ) -> str:
        """Render the prompt.

        `messages` and `tools` are JSON values, `variables` further values for the template. If
        `continue_final_message` is None, the model continues a last message of the assistant that
        has content and no calls, unless `add_generation_prompt` is true. Raises JobRejected if the
        template fails, or drops a message that is to be continued.
        """
        messages = [_with_readable_arguments(message) for message in messages]
        continues = continue_final_message
        if continues is None:
            continues = not add_generation_prompt and _is_unfinished(messages[-1])
        values = {**self.special_tokens, "documents": None, **variables, "tools": tools}
        if continues:
            return self._render_continued(messages, values)
        values["add_generation_prompt"] = add_generation_prompt is not False
        return self._render_text({**values, "messages": messages})

    def _render_continued(
        self, messages: Sequence[Mapping[str, Any]], values: Mapping[str, Any]
    ) -> str:
        """Render up to the end of the last message's content, as transformers does.

        White space at its end is kept, unless the template strips it.
        """
        *earlier, last = messages
        content = last.get("content") or ""
        messages = [*earlier, {**last, "content": f"{content}{_CONTINUATION_MARK} "}]
        values = {**values, "messages": messages, "add_generation_prompt": False}
        text = self._render_text(values)
        head, mark, rest = text.rpartition(_CONTINUATION_MARK)
        if not mark or content.strip() not in text:
            raise JobRejected("the template drops the message that is to be continued")
        return head if rest.startswith(" ") else head.rstrip()

    @cached_property
    def _compiled(self) -> jinja2.Template:
        return _ENVIRONMENT.from_string(self.source)

    def _render_text(self, values: Mapping[str, Any]) -> str:
        try:
            return self._compiled.render(values)
        except UndefinedError as error:
            missing = re.fullmatch(r"'(\w+)' is undefined", str(error))
            raise JobRejected(str(error), missing[1] if missing else None) from error
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise JobRejected(str(error) or type(error).__name__) from error
        except (AttributeError, RecursionError, MemoryError) as error:
            raise JobRejected(type(error).__name__) from error


def _is_unfinished(message: Mapping[str, Any]) -> bool:
    is_text = bool(message.get("content")) and not message.get("tool_calls")
    return message["role"] == "assistant" and is_text


def _with_readable_arguments(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """The message with arguments that a template may read as a mapping or as JSON text."""
    calls = message.get("tool_calls")
    if not calls:
        return message
    return {**message, "tool_calls": [_with_call_arguments(call) for call in calls]}


def _with_call_arguments(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    arguments = function.get("arguments")
    if isinstance(arguments, dict):
        function = {**function, "arguments": CallArguments(arguments)}
    return {**call, "function": function}


def _load_json(path: Path) -> dict[str, Any]:
    """Read the JSON object in the file at `path`; an empty one if there is no file."""
    if not path.exists():
        return {}
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} is not a JSON object")
    return value


def _template_source(folder: Path, config: Mapping[str, Any], prefer_config: bool) -> str | None:
    """The template's text. Its own files come before `config`, unless `prefer_config`."""
    in_config = config.get("chat_template")
    source = in_config if prefer_config else None
    if source is None and (file := folder / "chat_template.jinja").exists():
        return file.read_text(encoding="utf-8")
    if source is None:
        source = _load_json(folder / "chat_template.json").get("chat_template", in_config)
    if isinstance(source, list):
        source = {entry["name"]: entry["template"] for entry in source}.get("default")
    return source if isinstance(source, str) else None


def _special_tokens(
    config: Mapping[str, Any], special_tokens_map: Mapping[str, Any]
) -> dict[str, str]:
    """Texts by name. The older file `special_tokens_map.json` fills what `config` leaves out."""
    present = {name: value for name, value in config.items() if value is not None}
    values = {**config, **special_tokens_map, **present}
    return {name: _token_text(values[name]) for name in values if _is_special_token(name)}


def _is_special_token(name: str) -> bool:
    return name.endswith("_token") and not name.startswith("add_")


def _token_text(token: Any) -> str:
    """The text of a special token, which is a string or an object with `content`."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else ""
