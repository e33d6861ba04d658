"""A child process for work that is slow or may never end: templates, grammars, long texts.

Each job is a line of JSON on stdin. Its result is a line of JSON on stdout, followed by as many
bytes as that line says. An alarm kills the process when a job exceeds its time, even inside native
code, and a resource limit bounds its memory. It exits when its parent does, since its stdin ends.
It runs at nice +10, so that the event loop, which streams, is never starved.
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
from llguidance import LLTokenizer

from router import exact_json
from router.text.chat_template import ChatTemplate
from router.text.grammar_compilation import compile_grammar, load_tokenizer
from router.text.job_errors import JobRejected
from router.text.tokenizer import TokenizationError, Tokenizer

MEMORY_LIMIT = 8 << 30
"""Maximum size of the address space in bytes."""
NICE = 10
"""Niceness of the process, relative to its parent."""


class Worker:
    """Runs jobs for the model in `folder`. Each job is a method; its result is bytes."""

    def __init__(self, folder: str, vocab_size: int, config: str | None) -> None:
        self._folder, self._vocab_size, self._config = folder, vocab_size, config

    def run_job(self, job: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        """Run a job; return its first output line, with `size` and any `error`, and its bytes."""
        try:
            result: bytes = getattr(self, f"_{job.pop('job')}")(**job)
        except JobRejected as error:
            return {"size": 0, "error": str(error), "variable": error.missing_variable}, b""
        except TokenizationError as error:
            return {"size": 0, "error": str(error), "variable": None}, b""
        return {"size": len(result)}, result

    def _render(self, variables: dict[str, Any]) -> bytes:
        if self._template is None:
            raise JobRejected("template not found")
        return self._template.render(**variables).encode()

    def _encode(self, text: str, add_special_tokens: bool) -> bytes:
        """Token ids, int32."""
        return self._text_tokenizer.encode(text, add_special_tokens).tobytes()

    def _tokens_with_offsets(self, text: str, add_special_tokens: bool) -> bytes:
        return self._text_tokenizer.tokens_with_offsets(text, add_special_tokens)

    def _compile(self, kind: str, text: str) -> bytes:
        """The grammar in llguidance's format."""
        return compile_grammar(kind, text, self._grammar_tokenizer).encode()

    @cached_property
    def _template(self) -> ChatTemplate | None:
        return ChatTemplate.load(self._folder, self._config)

    @cached_property
    def _text_tokenizer(self) -> Tokenizer:
        return Tokenizer.load(self._folder)

    @cached_property
    def _grammar_tokenizer(self) -> LLTokenizer:
        text = Path(self._folder, "tokenizer.json").read_text(encoding="utf-8")
        return load_tokenizer(text, self._vocab_size)


def main() -> int:
    """Run jobs until stdin ends; return the exit status."""
    folder, size, config = json.loads(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(NICE)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    worker = Worker(folder, size, config)
    for line in sys.stdin.buffer:
        job = exact_json.loads(line, max_depth=None)
        signal.setitimer(signal.ITIMER_REAL, job.pop("seconds"))
        head, result = worker.run_job(job)
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.stdout.buffer.write(orjson.dumps(head) + b"\n")
        sys.stdout.buffer.write(result)
        sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
