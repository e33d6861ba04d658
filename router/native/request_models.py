"""Typed bodies of TGI's native routes. What the values mean together is `validation`'s business."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    AliasChoices,
    Field,
)

from router.http.json_body import I32, U32, U64, Body, Float32, Json, StringList


class Grammar(Body):
    """A constraint on the output."""

    type: Literal["json", "json_object", "json_schema", "regex", "lark"]
    value: Json


class GenerateParameters(Body):
    """TGI's generation parameters and ours."""

    best_of: U64 | None = None
    """Out of how many sequences the likeliest is the answer; needs sampling."""
    temperature: Float32 | None = None
    """Divides the scores; above 0."""
    repetition_penalty: Float32 | None = None
    """Of every token in prompt and output; above 0, 1 is neutral."""
    frequency_penalty: Float32 | None = None
    """Times a token's count in the output, taken from its score; -2 to 2."""
    top_k: I32 | None = None
    """Sample from so many of the likeliest tokens."""
    top_p: Float32 | None = None
    """Sample from the likeliest tokens that together have this probability; between 0 and 1."""
    typical_p: Float32 | None = None
    """Sample from the most typical tokens that together have this probability."""
    do_sample: bool = False
    """Sample, although no parameter asks for it; true without any `parameters`."""
    max_new_tokens: U32 | None = None
    """Most tokens to generate; null: as many as fit."""
    return_full_text: bool | None = None
    """Whether the prompt stands before the generated text; null: as the route has it."""
    stop: StringList = Field(default_factory=list)
    """Texts after which generation ends; they stay in the output."""
    truncate: U64 | None = None
    """Keep so many of the prompt's last tokens."""
    watermark: bool = False
    """Favour a list of tokens that the token before decides (Kirchenbauer et al. 2023)."""
    details: bool = False
    """Tell tokens, log-probabilities and how it ended."""
    decoder_input_details: bool = False
    """Tell the prompt's tokens and log-probabilities too; not with a stream."""
    seed: U64 | None = None
    """Of the sampling; null: a fresh one, which is told."""
    top_n_tokens: U32 | None = None
    """Tell so many of the likeliest tokens at each place."""
    grammar: Grammar | None = None
    """What the output must match."""
    adapter_id: str | None = None
    """Not supported: refused by name."""
    speculate: I32 | None = None
    """Most tokens drafted in a round, 0 to 64; null: as the server has it."""
    ignore_eos_token: bool = Field(
        default=False, validation_alias=AliasChoices("ignore_eos_token", "ignore_eos")
    )
    """Go on after the token that ends a text."""
    min_new_tokens: U32 | None = Field(
        default=None, validation_alias=AliasChoices("min_new_tokens", "min_tokens")
    )
    """The text does not end before so many tokens."""
    expected_new_tokens: U32 | None = None
    """About how many tokens will come, if the caller knows; the scheduler trusts it at first."""
    priority: I32 = 0
    """Lower goes first."""
    user: str | None = None
    """On whose behalf; told apart by the scheduler."""
    cache_salt: str | None = None
    """Share cached prompts only with those who give the same."""


class GenerateRequest(Body):
    """Body of `/generate*`. As in TGI, no `parameters` at all means sampling, `{}` does not."""

    inputs: str
    parameters: GenerateParameters = GenerateParameters(do_sample=True)


class CompatGenerateRequest(GenerateRequest):
    """Body of `/`."""

    stream: bool = False
