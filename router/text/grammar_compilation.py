"""Compiles one grammar with llguidance, and refuses what cannot be followed to its end.

A shard drafts and rolls back, and computes masks between the tokens of every other request. So a
grammar is refused here that cannot be rolled back, whose masks exceed the limits that the shards
have too, or in which some path has no continuation. It runs in a worker process, which is ended if
this takes too long.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from router.text.closed_objects import TooManyAlternatives, closed_objects
from router.text.embedded_schemas import LARK_LITERAL, embedded_schemas
from router.text.job_errors import JobRejected
from router.text.schema_numbers import check_numbers
from shard.wire.protocol import MAX_GRAMMAR_ITEMS, MAX_GRAMMAR_STATES

JSON_WHITESPACE = "[ ]?"
"""Pattern of the white space in JSON, as in TGI, so that no row generates only white space."""
LIMITS = LLParserLimits(step_max_items=MAX_GRAMMAR_ITEMS, max_lexer_states=MAX_GRAMMAR_STATES)
"""Limits of the parser, the same as on the shards."""
TRIED_TOKENS = 8
"""Number of tokens that a new grammar has to get through."""
_RULE_TEMPERATURE = re.compile(r"\[[^\[\]]*\btemperature\s*=")


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
    schemas = _schemas(kind, text)
    grammar = _grammar_source(kind, text)
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=LIMITS)
    if not matcher.is_error():
        matcher.compute_bitmask()
    if matcher.is_error():
        raise JobRejected(_error_line(matcher.get_error()))
    if matcher.is_stopped() and not matcher.is_accepting():
        raise JobRejected("no text can match it")
    _require_rollback(matcher)
    _try_tokens(matcher, tokenizer.eos_tokens)
    for schema in schemas:
        _require_other_keys(schema, tokenizer)
    return grammar


def _schemas(kind: str, text: str) -> list[Any]:
    """The JSON schemas of a grammar. Raises JobRejected for one with a number that would change."""
    if kind == "json":
        return [json.loads(text)]  # its numbers have been checked
    if kind != "lark":
        return []
    try:
        schemas = list(embedded_schemas(text))
        for schema in schemas:
            check_numbers(schema)
    except ValueError as error:
        raise JobRejected(f"`%json`: {error}") from error
    return schemas


def _grammar_source(kind: str, text: str) -> str:
    if kind == "lark":
        if text.lstrip().startswith("{"):  # llguidance would take it for its own format
            raise JobRejected("it is JSON, not Lark")
        _refuse_temperature(text)
        return text
    if kind == "regex":
        if (len(text) - len(text.rstrip("\\"))) % 2:  # would escape what llguidance appends
            raise JobRejected("incomplete escape sequence")
        return str(LLMatcher.grammar_from_regex(text))
    try:
        return _from_schema(text)
    except ValueError as error:
        raise JobRejected(_error_line(str(error))) from error


def _refuse_temperature(lark: str) -> None:
    """Raise JobRejected for a rule with a temperature: llguidance leaves that to its caller."""
    if _RULE_TEMPERATURE.search(LARK_LITERAL.sub(" ", lark)):
        raise JobRejected("`temperature` of a rule is not supported: use that of the request")


def _from_schema(text: str) -> str:
    options: Any = {"whitespace_pattern": JSON_WHITESPACE}
    return str(LLMatcher.grammar_from_json_schema(text, overrides=options))


def _require_rollback(matcher: LLMatcher) -> None:
    """Consume an allowed token and take it back, as is done with every rejected draft."""
    trial = matcher.deep_copy()
    allowed = _last_allowed(trial)
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


def _try_tokens(matcher: LLMatcher, eos: Collection[int]) -> None:
    """Consume a few tokens, with which the masks of an ambiguous grammar outgrow the limits."""
    trial = matcher.deep_copy()
    for _ in range(TRIED_TOKENS):
        allowed = _last_allowed(trial, eos)
        if allowed is not None:
            trial.consume_token(allowed)
        if trial.is_error():
            raise JobRejected(_error_line(trial.get_error()))
        if allowed is None or trial.is_stopped():
            return


def _last_allowed(matcher: LLMatcher, excluded: Collection[int] = ()) -> int | None:
    """The highest id that may follow, or None: it is a late merge, so it tends to be long."""
    mask = int.from_bytes(matcher.compute_bitmask(), "little")
    for id in excluded:
        mask &= ~(1 << id)
    return mask.bit_length() - 1 if mask else None


def _require_other_keys(schema: Any, tokenizer: LLTokenizer) -> None:
    """Refuse an object whose patterns match nothing but the names of its properties.

    llguidance allows a comma after the last of them, although no other key can follow.
    """
    try:
        objects = list(closed_objects(schema))
    except TooManyAlternatives as error:
        raise JobRejected("it combines too many alternatives") from error
    for keys in objects:
        names = sorted(keys.names)
        if _has_dead_end(names, sorted(keys.patterns), tokenizer):
            raise JobRejected(
                "`patternProperties` of an object without `additionalProperties` matches only"
                f" names that are in `properties` or `required`: {', '.join(names)[:100]}"
            )


def _has_dead_end(names: Sequence[str], patterns: Sequence[str], tokenizer: LLTokenizer) -> bool:
    """Whether a comma may follow the last of `names` although no key matches `patterns` there."""
    zero = {"const": 0}
    probe = {
        "type": "object",
        "properties": dict.fromkeys(names, zero),
        "patternProperties": dict.fromkeys(patterns, zero),
        "additionalProperties": False,
        "required": names,
    }
    matcher = LLMatcher(tokenizer, _from_schema(json.dumps(probe)), log_level=0, limits=LIMITS)
    keys = (f"{json.dumps(name, ensure_ascii=False)}:0" for name in names)
    tokens = tokenizer.tokenize_str("{" + ",".join(keys) + ", ")
    if matcher.is_error() or matcher.try_consume_tokens(tokens) < len(tokens):
        return False  # it is refused for another reason, or allows no comma
    return not any(matcher.compute_bitmask()) or bool(matcher.is_error())


def _error_line(text: str) -> str:
    """The line of llguidance's report that describes the error, without its parser's state."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["unknown"]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines)[0][:300]
