"""Compiles one grammar with llguidance, and refuses what cannot be followed to its end.

A shard drafts and rolls back, and computes masks between the tokens of every other request. So a
grammar is refused here that cannot be rolled back, whose masks exceed the limits that the shards
have too, or in which some path has no continuation. It runs in a worker process, which is ended if
this takes too long.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from router.exact_json import nested_values
from router.text.job_errors import JobRejected
from shard.wire.protocol import MAX_GRAMMAR_ITEMS, MAX_GRAMMAR_STATES

JSON_WHITESPACE = "[ ]?"
"""Pattern of the white space in JSON, as in TGI, so that no row generates only white space."""
LIMITS = LLParserLimits(step_max_items=MAX_GRAMMAR_ITEMS, max_lexer_states=MAX_GRAMMAR_STATES)
"""Limits of the parser, the same as on the shards."""


def load_tokenizer(text: str, vocabulary_size: int) -> LLTokenizer:
    """The tokenizer in the JSON `text`, for a model with `vocabulary_size` tokens.

    It may have more tokens than the model. Raises JobRejected if llguidance cannot use it.
    """
    try:
        return LLTokenizer(text, n_vocab=vocabulary_size)
    except ValueError:
        pass
    try:
        return LLTokenizer(text)
    except ValueError as error:
        raise JobRejected(f"grammars are not supported with this tokenizer: {error}") from error


def compile_grammar(kind: str, text: str, tokenizer: LLTokenizer) -> str:
    """The grammar in llguidance's format. Raises JobRejected if it cannot be followed."""
    grammar = _grammar_source(kind, text)
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=LIMITS)
    if not matcher.is_error():
        matcher.compute_bitmask()
    if matcher.is_error():
        raise JobRejected(_error_line(matcher.get_error()))
    if matcher.is_stopped() and not matcher.is_accepting():
        raise JobRejected("no text can match it")
    _require_rollback(matcher)
    if kind == "json":
        _require_other_keys(json.loads(text), tokenizer)
    return grammar


def _grammar_source(kind: str, text: str) -> str:
    if kind == "lark":
        return text
    if kind == "regex":
        if (len(text) - len(text.rstrip("\\"))) % 2:  # would escape what llguidance appends
            raise JobRejected("incomplete escape sequence")
        return str(LLMatcher.grammar_from_regex(text))
    try:
        return _from_schema(text)
    except ValueError as error:
        raise JobRejected(_error_line(str(error))) from error


def _from_schema(text: str) -> str:
    options: Any = {"whitespace_pattern": JSON_WHITESPACE}
    return str(LLMatcher.grammar_from_json_schema(text, overrides=options))


def _require_rollback(matcher: LLMatcher) -> None:
    """Consume an allowed token and take it back, as is done with every rejected draft."""
    trial = matcher.deep_copy()
    mask = trial.compute_bitmask()
    allowed = next((8 * i + _lowest_bit(byte) for i, byte in enumerate(mask) if byte), None)
    if allowed is None or trial.is_stopped():
        return
    trial.consume_token(allowed)
    if not trial.is_error():
        trial.rollback(1)
    if trial.is_error():
        raise JobRejected(
            "`max_tokens` and `stop` of a rule are not supported, since tokens that were drafted"
            f" cannot be taken back: {_error_line(trial.get_error())}"
        )


def _lowest_bit(byte: int) -> int:
    return (byte & -byte).bit_length() - 1


def _require_other_keys(schema: Any, tokenizer: LLTokenizer) -> None:
    """Refuse an object whose patterns match nothing but the names of its properties.

    llguidance allows a comma after the last of them, although no other key can follow.
    """
    for names, patterns in _closed_objects(schema):
        zero = {"const": 0}
        probe = {
            "type": "object",
            "properties": dict.fromkeys(names, zero),
            "patternProperties": dict.fromkeys(patterns, zero),
            "additionalProperties": False,
            "required": list(names),
        }
        matcher = LLMatcher(tokenizer, _from_schema(json.dumps(probe)), log_level=0, limits=LIMITS)
        keys = (f"{json.dumps(name, ensure_ascii=False)}:0" for name in names)
        tokens = tokenizer.tokenize_str("{" + ",".join(keys) + ", ")
        if matcher.is_error() or matcher.try_consume_tokens(tokens) < len(tokens):
            continue  # it is refused for another reason, or allows no comma
        if not any(matcher.compute_bitmask()) or matcher.is_error():
            raise JobRejected(
                "`patternProperties` of an object without `additionalProperties` matches only"
                f" names that are in `properties`: {', '.join(names)[:100]}"
            )


def _closed_objects(schema: Any) -> Iterator[tuple[list[str], list[str]]]:
    """Names and patterns of the objects in `schema` that allow no other keys."""
    for value in nested_values(schema):
        if isinstance(value, dict):
            names, patterns = value.get("properties"), value.get("patternProperties")
            is_closed = value.get("additionalProperties") is False
            if is_closed and isinstance(patterns, dict) and isinstance(names, dict) and names:
                yield list(names), list(patterns)


def _error_line(text: str) -> str:
    """The line of llguidance's report that describes the error, without its parser's state."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["unknown"]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines)[0][:300]
