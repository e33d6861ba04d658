"""Random JSON schemas: every output that the engine completes under a schema is valid."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from router.text.grammar import from_schema
from router.text.worker import Worker
from shard.wire.protocol import Sampling
from tests.support.driver import DrivePlan, RowSpec, drive
from tests.support.nightly import nightly
from tests.support.text_engine import EOS, TOKENIZER, VOCABULARY, text_engine

LONGEST = 60
"""Most tokens of an output; a token is about a byte."""

Schema = dict[str, Any]


def string(rng: random.Random, depth: int) -> Schema:
    if rng.random() < 0.3:
        pattern = rng.choice(("^[a-z]{1,3}$", "^(on|off)$", "^[0-9]+x$", "^.{0,2}$"))
        return {"type": "string", "pattern": pattern, "maxLength": 6}
    low = rng.randint(0, 2)
    return {"type": "string", "minLength": low, "maxLength": low + rng.randint(0, 3)}


def number(rng: random.Random, depth: int) -> Schema:
    low = rng.randint(-300, 300)
    high = low + rng.randint(0, 200)
    return rng.choice(
        (
            {"type": "integer", "minimum": low, "maximum": high},
            {"type": "integer", "exclusiveMinimum": low, "exclusiveMaximum": high + 2},
            {"type": "number", "minimum": low, "maximum": high + 1},
            {"type": "integer", "minimum": -9, "maximum": 99, "multipleOf": 3},
        )
    )


def choice(rng: random.Random, depth: int) -> Schema:
    values = ["", "é\n", 'a"b\\', 0, -1.5, True, None, [], {"k": [1]}]
    if rng.random() < 0.3:
        return {"const": rng.choice(values)}
    return {"enum": rng.sample(values, rng.randint(1, 4))}


def plain(rng: random.Random, depth: int) -> Schema:
    return {"type": rng.choice((["boolean", "null"], "boolean", "null"))}


def array(rng: random.Random, depth: int) -> Schema:
    low = rng.randint(0, 2)
    made: Schema = {"type": "array", "minItems": low, "maxItems": low + rng.randint(0, 2)}
    if rng.random() < 0.3:
        items = [schema(rng, depth - 1) for _ in range(2)]
        return {"type": "array", "prefixItems": items, "items": False, "minItems": 2}
    return made | {"items": schema(rng, depth - 1)}


def thing(rng: random.Random, depth: int) -> Schema:
    names = rng.sample(["a", "bc", "d e", "é", "f"], rng.randint(1, 3))
    return {
        "type": "object",
        "properties": {name: schema(rng, depth - 1) for name in names},
        "required": rng.sample(names, rng.randint(0, len(names))),
        "additionalProperties": False,
    }


def either(rng: random.Random, depth: int) -> Schema:
    return {"anyOf": [schema(rng, depth - 1) for _ in range(2)]}


def shared(rng: random.Random, depth: int) -> Schema:
    part = {"$ref": "#/$defs/part"}
    return {
        "$defs": {"part": leaf(rng, 0)},
        "type": "object",
        "properties": {"one": part, "two": part},
        "required": ["one"],
        "additionalProperties": False,
    }


LEAVES = (string, number, choice, plain)
BRANCHES = (array, thing, either)


def leaf(rng: random.Random, depth: int) -> Schema:
    return rng.choice(LEAVES)(rng, depth)


def schema(rng: random.Random, depth: int) -> Schema:
    kinds: tuple[Callable[[random.Random, int], Schema], ...] = LEAVES
    return rng.choice(kinds + BRANCHES if depth > 0 else kinds)(rng, depth)


def whole(seed: int) -> Schema:
    """A random schema, its text short enough for most outputs to be completed."""
    rng = random.Random(seed)
    return rng.choice((thing, thing, array, either, shared, leaf))(rng, 2)


@pytest.mark.parametrize(("draft", "count"), [(0, 50), (3, 50), nightly(0, 500), nightly(3, 500)])
def test_completed_outputs_are_valid(tmp_path: Path, draft: int, count: int) -> None:
    TOKENIZER.save(str(tmp_path / "tokenizer.json"))
    served = text_engine(str(tmp_path), 1)
    worker = Worker(str(tmp_path), VOCABULARY, None)
    schemas = [whole(seed) for seed in range(draft * count, (draft + 1) * count)]
    asks = []
    for seed, each in enumerate(schemas):
        source = from_schema(each)
        head, compiled = worker.run_job(
            {"job": "compile", "kind": source.kind, "text": source.text}
        )
        assert "error" not in head, (each, head)
        sampling = Sampling(seed=seed, temperature=1.0)
        asks.append(RowSpec((65, 66), LONGEST, sampling, grammar=compiled.decode()))
    outputs = drive(served, asks, DrivePlan(draft=draft, batch=8))
    completed = [pair for pair in zip(schemas, outputs, strict=True) if pair[1][-1] == EOS]
    assert len(completed) > len(schemas) * 0.8
    for each, tokens in completed:
        value = json.loads(TOKENIZER.decode(tokens[:-1]))
        assert jsonschema_rs.validator_for(each).is_valid(value), (each, value)
