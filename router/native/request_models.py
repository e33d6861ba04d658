"""Request bodies of TGI's native routes: names, types and descriptions.

What the values mean together is decided in `validation`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from router.http.json_body import U32, U64, Body, Float32, Json, StringList
from router.native.parameters import SharedParameters


class GrammarType(Body):
    """A constraint on the output."""

    type: Literal["json", "json_object", "json_schema", "regex", "lark"]
    """Kind of grammar. The three `json` kinds are synonyms."""
    value: Json
    """The grammar: a JSON schema for the `json` kinds, otherwise a string."""


class GenerateParameters(SharedParameters):
    """Generation parameters: TGI's, and those shared with the OpenAI routes."""

    best_of: U64 | None = None
    """Generate this many sequences and return the most likely one. Requires sampling."""
    typical_p: Float32 | None = None
    """Locally typical sampling: sample from the tokens whose surprise is closest to the entropy,
    until their probabilities add up to `typical_p`. Between 0 and 1, exclusive."""
    do_sample: bool = False
    """Sample even if no other parameter implies it. True if the request has no `parameters`."""
    max_new_tokens: U32 | None = None
    """Maximum number of tokens to generate. If null, as many as fit into the context."""
    return_full_text: bool | None = None
    """Whether to prepend the prompt to the generated text. If null, the route decides."""
    stop: StringList = Field(default_factory=list)
    """Stop generating after any of these strings; the string stays in the output."""
    truncate: U64 | None = None
    """Truncate the prompt to its last N tokens."""
    watermark: bool = False
    """Watermark the output (Kirchenbauer et al. 2023)."""
    details: bool = False
    """Return tokens, log-probabilities and the finish reason."""
    decoder_input_details: bool = False
    """Also return the tokens and log-probabilities of the prompt. Not supported when streaming."""
    seed: U64 | None = None
    """Sampling seed. If null, one is chosen and returned in the details."""
    top_n_tokens: U32 | None = None
    """Return the N most likely tokens at each position."""
    grammar: GrammarType | None = None
    """A grammar that the output must match."""
    adapter_id: str | None = None
    """Name of the LoRA adapter to generate with. If null, none is used."""


class GenerateRequest(Body):
    """Body of `/generate` and `/generate_stream`."""

    inputs: str
    """The prompt."""
    parameters: GenerateParameters = GenerateParameters(do_sample=True)
    """Generation parameters. As in TGI, sampling is the default only without `parameters`."""


class CompatGenerateRequest(GenerateRequest):
    """Body of `/`."""

    stream: bool = False
    """Whether to stream the tokens as server-sent events."""
