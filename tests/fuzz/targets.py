"""What coverage-guided fuzzing calls with any bytes, and the only errors that may be raised.

Rule: each target is a function of its bytes; it raises nothing but a fault of the code under test.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cache

import orjson
from llguidance import LLTokenizer

from router.errors import BodyTypeError, MalformedJson, ValidationError
from router.http.json_body import parse_body
from router.native.request_models import CompatGenerateRequest
from router.openai.request_models import ChatRequest, CompletionRequest
from router.text.grammar import parse_grammar
from router.text.grammar_compilation import compile_grammar, load_tokenizer
from router.text.job_errors import JobRejected
from shard.wire.protocol import HEADER_BYTES, ProtocolError, body_length, pack, unpack
from tests.support.paths import ROOT

KINDS = ("json", "json_schema", "regex", "lark")


def frames(data: bytes) -> None:
    """A frame that a shard sends: what can be read is written and read again to the same."""
    with suppress(ProtocolError):
        body_length(data[:HEADER_BYTES])
        message = unpack(data[HEADER_BYTES:])
        again = unpack(pack(message)[HEADER_BYTES:])
        assert repr(again) == repr(message)  # NaN is not equal to itself


def bodies(data: bytes) -> None:
    """The body of a request, for each route that generates."""
    for model in (CompatGenerateRequest, CompletionRequest, ChatRequest):
        with suppress(MalformedJson, BodyTypeError):
            parse_body(data, model)


def grammar_parameters(data: bytes) -> None:
    """The `grammar` parameter: the first byte is its kind, the others its JSON value."""
    with suppress(ValidationError, orjson.JSONDecodeError):
        parse_grammar(KINDS[data[0] % len(KINDS)] if data else "", orjson.loads(data[1:]))


def grammars(data: bytes) -> None:
    """The text of a grammar that is compiled: the first byte is its kind."""
    text = data[1:].decode(errors="replace")
    with suppress(JobRejected):
        compile_grammar(("regex", "lark")[data[0] % 2] if data else "regex", text, tokenizer())


@cache
def tokenizer() -> LLTokenizer:
    """The demo pair's."""
    text = (ROOT / "shard" / "demo" / "target" / "tokenizer.json").read_text()
    return load_tokenizer(text, 4096)


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (frames, bodies, grammar_parameters, grammars)
}
