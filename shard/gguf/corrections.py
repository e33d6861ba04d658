"""What transformers does not read of a GGUF header: the corrections of its configuration.

Decides from the header alone; knows no module of torch. A position embedding that cannot be
expressed is refused by name, since the model would otherwise run with wrong positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isclose, pi
from pathlib import Path
from typing import Any

from shard.errors import StartupError
from shard.gguf.header import GgufHeader

LLAMA3_FREQUENCIES = "rope_freqs.weight"
"""The tensor with which llama.cpp stores the scaled frequencies of Llama 3."""
_LONGROPE_FREQUENCIES = ("rope_factors_long.weight", "rope_factors_short.weight")
_LLAMA3: Mapping[str, Any] = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
"""The values of every Llama 3.1, 3.2 and 3.3; only the factor differs."""
_FIELDS = {
    "attention.key_length": "head_dim",
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "expert_feed_forward_length": "moe_intermediate_size",
}
"""Names in `config.json` of metadata that transformers reads for some architectures only."""
_YARN = {"yarn_beta_fast": "beta_fast", "yarn_beta_slow": "beta_slow"}


def corrected_fields(header: GgufHeader, config: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `config` with the values that the header states, where they differ."""
    prefix = header.architecture
    stated = {
        field: header.metadata[f"{prefix}.{name}"]
        for name, field in _FIELDS.items()
        if f"{prefix}.{name}" in header.metadata and field in config
    }
    return {field: value for field, value in stated.items() if value != config[field]}


def rope_scaling(
    file: Path, header: GgufHeader, theta: float, factors: Sequence[float] | None
) -> dict[str, Any] | None:
    """The scaling part of `rope_parameters`; None for plain frequencies.

    `theta` is the base of the frequencies, `factors` the content of `rope_freqs.weight`. Raises
    StartupError(4) for a scaling that is not known here.
    """
    if any(tensor.name in _LONGROPE_FREQUENCIES for tensor in header.tensors):
        raise _unknown_scaling(file, "longrope")
    if factors is not None:
        return _llama3(file, theta, factors)
    prefix = f"{header.architecture}.rope.scaling"
    kind = header.metadata.get(f"{prefix}.type", "none")
    if kind == "none":
        return None
    factor = float(header.metadata.get(f"{prefix}.factor", 1.0))
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    original = header.metadata.get(f"{prefix}.original_context_length")
    if kind != "yarn" or original is None or header.metadata.get(f"{prefix}.attn_factor", 1) != 1:
        raise _unknown_scaling(file, str(kind))
    betas = {
        field: header.metadata[f"{prefix}.{name}"]
        for name, field in _YARN.items()
        if f"{prefix}.{name}" in header.metadata
    }
    return {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": original,
        **betas,
    }


def llama3_factors(theta: float, count: int, factor: float) -> list[float]:
    """By what Llama 3 divides each of its `count` frequencies.

    Source: `_compute_llama3_parameters` of transformers.
    """
    original = _LLAMA3["original_max_position_embeddings"]
    low, high = _LLAMA3["low_freq_factor"], _LLAMA3["high_freq_factor"]
    factors = []
    for index in range(count):
        turns = original / (2 * pi * theta ** (index / count))
        smooth = min(1.0, max(0.0, (turns - low) / (high - low)))
        factors.append(1 / ((1 - smooth) / factor + smooth))
    return factors


def _llama3(file: Path, theta: float, factors: Sequence[float]) -> dict[str, Any] | None:
    factor = max(factors)
    if factor == min(factors) == 1:
        return None
    expected = llama3_factors(theta, len(factors), factor)
    if not all(isclose(*pair, rel_tol=1e-4) for pair in zip(expected, factors, strict=True)):
        raise _unknown_scaling(file, LLAMA3_FREQUENCIES)
    return {**_LLAMA3, "factor": round(factor, 4)}


def _unknown_scaling(file: Path, kind: str) -> StartupError:
    return StartupError(
        4,
        f"{file}: position embeddings with `{kind}` are not read from GGUF files; serve the model's"
        " safetensors",
    )
