"""A child process for work that may not end: rendering a chat template, compiling a grammar.

One job a line on stdin, one answer a line on stdout, both JSON. The kernel ends the process when
a job's time is up, even inside foreign code that nothing else could stop, and bounds its memory.
It ends with its parent, whose going it sees at the next line, or the alarm before that.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson
from llguidance import LLMatcher, LLTokenizer

from router.chat import ChatTemplate, Refused

MEMORY = 8 << 30
"""Bytes of address space."""
SPACE = "[ ]?"
"""Between the parts of JSON, as in TGI: no row may spend all its tokens on white space."""


class Worker:
    """Does jobs for the model in `folder`, whose logits are `size` wide."""

    def __init__(self, folder: str, size: int, config: str | None) -> None:
        self._folder, self._size, self._config = folder, size, config

    def do(self, job: dict[str, Any]) -> dict[str, Any]:
        """The answer: `text`, or `error`."""
        try:
            return {"text": getattr(self, f"_{job.pop('job')}")(**job)}
        except Refused as fault:
            return {"error": str(fault), "variable": fault.variable}

    def _render(self, variables: dict[str, Any]) -> str:
        if self._template is None:
            raise Refused("template not found")
        return self._template.render(**variables)

    def _compile(self, kind: str, text: str) -> str:
        """llguidance's form of a grammar that it can follow for at least one token."""
        grammar = _source(kind, text)
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        if not matcher.is_error():
            matcher.compute_bitmask()
        if matcher.is_error():
            raise Refused(_reason(matcher.get_error()))
        if matcher.is_stopped() and not matcher.is_accepting():
            raise Refused("no text satisfies it")
        return grammar

    @cached_property
    def _template(self) -> ChatTemplate | None:
        return ChatTemplate.load(self._folder, self._config)

    @cached_property
    def _tokenizer(self) -> LLTokenizer:
        text = Path(self._folder, "tokenizer.json").read_text(encoding="utf-8")
        return LLTokenizer(text, n_vocab=self._size)


def _source(kind: str, text: str) -> str:
    if kind == "lark":
        return text
    if kind == "regex":
        if (len(text) - len(text.rstrip("\\"))) % 2:  # it would escape what llguidance puts behind
            raise Refused("incomplete escape sequence")
        return str(LLMatcher.grammar_from_regex(text))
    try:
        options: Any = {"whitespace_pattern": SPACE}
        return str(LLMatcher.grammar_from_json_schema(text, overrides=options))
    except ValueError as fault:
        raise Refused(_reason(str(fault))) from fault


def _reason(text: str) -> str:
    """The line of llguidance's report that names the fault, without the state of its parser."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["unknown"]
    named = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (named or lines)[0][:300]


def main() -> int:
    """Serve until stdin ends."""
    folder, size, config = json.loads(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    worker = Worker(folder, size, config)
    for line in sys.stdin.buffer:
        job = orjson.loads(line)
        signal.setitimer(signal.ITIMER_REAL, job.pop("seconds"))
        answer = worker.do(job)
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
        sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
