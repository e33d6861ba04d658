"""A child process for work that takes long, or may not end: templates, grammars, long texts.

One job a line on stdin; an answer is a line on stdout and as many bytes as that says. Both lines
are JSON. The kernel ends the process when a job's time is up, even inside foreign code that nothing
else could stop, and bounds its memory. It ends with its parent, whose going it sees at the next
line, or the alarm before that. The kernel prefers those who stream.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson
from llguidance import LLMatcher, LLTokenizer

from router.text.chat_template import ChatTemplate, JobRejected
from router.text.tokenizer import TokenizationError, Tokenizer

MEMORY_LIMIT = 8 << 30
"""Bytes of address space."""
NICE = 10
"""How much the kernel prefers others to this process."""
JSON_WHITESPACE = "[ ]?"
"""Between the parts of JSON, as in TGI: no row may spend all its tokens on white space."""


class Worker:
    """Does jobs for the model in `folder`, whose logits are `size` wide."""

    def __init__(self, folder: str, vocab_size: int, config: str | None) -> None:
        self._folder, self._vocab_size, self._config = folder, vocab_size, config

    def run_job(self, job: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        """The head of the answer, `size` or `error` too, and its bytes."""
        try:
            made: bytes = getattr(self, f"_{job.pop('job')}")(**job)
        except JobRejected as fault:
            return {"size": 0, "error": str(fault), "variable": fault.missing_variable}, b""
        except TokenizationError as fault:
            return {"size": 0, "error": str(fault), "variable": None}, b""
        return {"size": len(made)}, made

    def _render(self, variables: dict[str, Any]) -> bytes:
        if self._template is None:
            raise JobRejected("template not found")
        return self._template.render(**variables).encode()

    def _encode(self, text: str, special: bool) -> bytes:
        """Token ids, int32."""
        return self._text_tokenizer.encode(text, special).tobytes()

    def _spans(self, text: str, special: bool) -> bytes:
        return self._text_tokenizer.tokens_with_offsets(text, special)

    def _compile(self, kind: str, text: str) -> bytes:
        """llguidance's form of a grammar that it can follow for at least one token."""
        grammar = _grammar_source(kind, text)
        matcher = LLMatcher(self._grammar_tokenizer, grammar, log_level=0)
        if not matcher.is_error():
            matcher.compute_bitmask()
        if matcher.is_error():
            raise JobRejected(_error_line(matcher.get_error()))
        if matcher.is_stopped() and not matcher.is_accepting():
            raise JobRejected("no text satisfies it")
        return grammar.encode()

    @cached_property
    def _template(self) -> ChatTemplate | None:
        return ChatTemplate.load(self._folder, self._config)

    @cached_property
    def _text_tokenizer(self) -> Tokenizer:
        return Tokenizer.load(self._folder)

    @cached_property
    def _grammar_tokenizer(self) -> LLTokenizer:
        text = Path(self._folder, "tokenizer.json").read_text(encoding="utf-8")
        try:
            return LLTokenizer(text, n_vocab=self._vocab_size)
        except ValueError as fault:  # tokenizers has kinds that llguidance does not read
            raise JobRejected(f"grammars are not supported with this tokenizer: {fault}") from fault


def _grammar_source(kind: str, text: str) -> str:
    if kind == "lark":
        return text
    if kind == "regex":
        if (len(text) - len(text.rstrip("\\"))) % 2:  # it would escape what llguidance puts behind
            raise JobRejected("incomplete escape sequence")
        return str(LLMatcher.grammar_from_regex(text))
    try:
        options: Any = {"whitespace_pattern": JSON_WHITESPACE}
        return str(LLMatcher.grammar_from_json_schema(text, overrides=options))
    except ValueError as fault:
        raise JobRejected(_error_line(str(fault))) from fault


def _error_line(text: str) -> str:
    """The line of llguidance's report that names the fault, without the state of its parser."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["unknown"]
    named = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (named or lines)[0][:300]


def main() -> int:
    """Serve until stdin ends."""
    folder, size, config = json.loads(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(NICE)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    worker = Worker(folder, size, config)
    for line in sys.stdin.buffer:
        job = orjson.loads(line)
        signal.setitimer(signal.ITIMER_REAL, job.pop("seconds"))
        head, made = worker.run_job(job)
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.stdout.buffer.write(orjson.dumps(head) + b"\n")
        sys.stdout.buffer.write(made)
        sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
