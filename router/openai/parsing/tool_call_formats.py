# ruff: noqa: RUF001 - the full-width bars are DeepSeek's own marks
"""The formats in which models write tool calls: their marks, and what reads the text between them.

A format is detected by a mark in the chat template. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from router.openai.parsing import call_readers, element_calls
from router.openai.parsing.call_readers import CallReader, Cursor
from router.openai.parsing.call_values import Tools

Reader = Callable[[Cursor, Tools], CallReader]


@dataclass(frozen=True, slots=True)
class ToolCallFormat:
    """The format of one model family."""

    readers: Mapping[str, Reader]
    """What reads the calls after a mark that begins one, or several; the first mark is the usual
    one. Empty for a format that covers the whole output."""
    extra_marks: tuple[str, ...] = ()
    """Further marks that may be special tokens and that the reader needs."""
    bare_reader: Reader | None = None
    """What reads an output that begins with JSON; None if that is content."""

    @property
    def special_tokens(self) -> frozenset[str]:
        """All marks of the format."""
        return frozenset((*self.readers, *self.extra_marks))


MESSAGE_MARK = "<|message|>"
"""Between the header and the text of a gpt-oss message."""

JSON_FORMAT = ToolCallFormat({}, bare_reader=call_readers.read_bare_json)
_HERMES_FORMAT = ToolCallFormat({"<tool_call>": call_readers.read_hermes}, ("</tool_call>",))
_QWEN_CODER_FORMAT = ToolCallFormat(
    {
        "<tool_call>": element_calls.read_qwen_coder,
        "<function=": element_calls.read_bare_qwen_coder,
    },
    ("</tool_call>",),
)
_GLM_FORMAT = ToolCallFormat({"<tool_call>": element_calls.read_glm}, ("</tool_call>",))
_MISTRAL_FORMAT = ToolCallFormat(
    {call_readers.MISTRAL_OPENING: call_readers.read_mistral}, ("[ARGS]", "[CALL_ID]")
)
_LLAMA_FORMAT = ToolCallFormat(
    {"<|python_tag|>": call_readers.read_bare_json}, bare_reader=call_readers.read_bare_json
)
_GRANITE_FORMAT = ToolCallFormat({"<|tool_call|>": call_readers.read_granite}, ("<|/tool_call|>",))
HARMONY_FORMAT = ToolCallFormat(
    {},
    (
        *("<|channel|>", "<|call|>", "<|start|>", "<|constrain|>"),
        *(MESSAGE_MARK, "<|end|>", "<|return|>"),
    ),
)
"""gpt-oss's, which is parsed by `harmony`."""
_DEEPSEEK_FORMAT = ToolCallFormat(
    {"<｜tool▁calls▁begin｜>": call_readers.read_deepseek},
    (
        call_readers.DEEPSEEK_CALL,
        call_readers.DEEPSEEK_SEPARATOR,
        call_readers.DEEPSEEK_CALL_END,
        call_readers.DEEPSEEK_END,
    ),
)
_FORMAT_BY_MARK = (
    ("<|channel|>", HARMONY_FORMAT),
    ("<arg_key>", _GLM_FORMAT),
    ("<function=", _QWEN_CODER_FORMAT),
    ("<tool_call>", _HERMES_FORMAT),
    ("[TOOL_CALLS]", _MISTRAL_FORMAT),
    ("<｜tool▁calls▁begin｜>", _DEEPSEEK_FORMAT),
    ("<|tool_call|>", _GRANITE_FORMAT),
    ("<|python_tag|>", _LLAMA_FORMAT),
)
"""The first of these marks that the template contains decides."""

FORMATS = {
    "hermes": _HERMES_FORMAT,
    "qwen3_coder": _QWEN_CODER_FORMAT,
    "mistral": _MISTRAL_FORMAT,
    "deepseek": _DEEPSEEK_FORMAT,
    "llama3_json": _LLAMA_FORMAT,
    "glm": _GLM_FORMAT,
    "granite": _GRANITE_FORMAT,
    "harmony": HARMONY_FORMAT,
    "json": JSON_FORMAT,
}
"""The values of `--tool-call-parser`, other than `auto`."""


def detect_format(template: str) -> ToolCallFormat:
    """The format that a chat template uses; plain JSON if it contains no mark."""
    return next((format for mark, format in _FORMAT_BY_MARK if mark in template), JSON_FORMAT)
