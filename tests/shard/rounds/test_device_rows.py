"""What runs on the device is a list; every option that is not on it is named and refused."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch

from router.native.parameters import WARPERS
from shard.rounds.device_rows import ON_DEVICE, SamplingKind, sampling_kind, unsupported_option
from shard.sampling import sampler
from shard.sampling.position import Position
from shard.wire.protocol import LogitBias, ReportOptions, Sampling

CHANGED: dict[str, Any] = {
    "seed": 5,
    "temperature": 0.5,
    "top_k": 3,
    "top_p": 0.5,
    "repetition_penalty": 1.5,
    "typical_p": 0.3,
    "min_p": 0.5,
    "frequency_penalty": 0.5,
    "presence_penalty": 0.5,
    "bias": (LogitBias(3, 1.0),),
    "watermark": True,
    "min_new_tokens": 9,
    "watermark_gamma": 0.25,
    "watermark_delta": 3.0,
}
REPORTS: dict[str, Any] = {"top_n": 2, "raw_logprobs": True, "prompt_logprobs": True}
SAMPLING_FIELDS = [field.name for field in fields(Sampling)]
REPORT_FIELDS = [field.name for field in fields(ReportOptions)]


@pytest.mark.parametrize("name", SAMPLING_FIELDS)
def test_a_sampling_field_is_implemented_on_the_device_or_refused_there(name: str) -> None:
    refused = unsupported_option(Sampling(**{name: CHANGED[name]}), ReportOptions())
    assert refused == (None if name in ON_DEVICE else name)


@pytest.mark.parametrize("name", REPORT_FIELDS)
def test_a_report_option_is_implemented_on_the_device_or_refused_there(name: str) -> None:
    refused = unsupported_option(Sampling(), ReportOptions(**{name: REPORTS[name]}))
    assert refused == (None if name in ON_DEVICE else name)


def test_the_list_names_fields_that_there_are() -> None:
    assert {*SAMPLING_FIELDS, *REPORT_FIELDS} >= ON_DEVICE


@pytest.mark.parametrize("name", [name for name in SAMPLING_FIELDS if name in ON_DEVICE])
def test_the_kind_of_round_covers_every_field_on_the_list(name: str) -> None:
    kind = sampling_kind(Sampling(**{"temperature": 1.0, name: CHANGED[name]}))
    basic = name in ("seed", "temperature")
    assert kind is (SamplingKind.SAMPLED if basic else SamplingKind.FILTERED)


def test_a_greedy_row_has_no_warpers() -> None:
    assert sampling_kind(Sampling(top_k=3, top_p=0.5, min_p=0.5)) is SamplingKind.GREEDY
    assert sampling_kind(Sampling(min_new_tokens=3)) is SamplingKind.FILTERED


@pytest.mark.parametrize("name", SAMPLING_FIELDS)
def test_every_sampling_field_changes_the_scores_or_the_choice_on_the_host(name: str) -> None:
    base: dict[str, Any] = {"temperature": 1.0, "watermark": name.startswith("watermark_")}
    plain, changed = outcome(Sampling(**base)), outcome(Sampling(**{**base, name: CHANGED[name]}))
    assert plain != changed


def test_the_parameters_without_effect_on_greedy_decoding_are_the_routers_warpers() -> None:
    without_effect = set()
    for name in SAMPLING_FIELDS:
        base: dict[str, Any] = {"watermark": name.startswith("watermark_")}
        changed = {**base, name: CHANGED[name], "temperature": 0.0}
        if outcome(Sampling(**changed)) == outcome(Sampling(**base)):
            without_effect.add(name)
    assert without_effect == {"seed", *WARPERS}


def outcome(sampling: Sampling) -> tuple[list[list[float]], list[int]]:
    """Scores and tokens of a few positions, over the same random logits."""
    tokens = (3, 4, 5, 3)
    positions = [
        Position(sampling, tokens, drafts, prompt_length=2) for drafts in ((), (7,), (8, 9))
    ]
    logits = torch.randn(3, 40, generator=torch.Generator().manual_seed(1))
    scores = sampler.process(logits, positions, eos=(6,))
    return scores.tolist(), sampler.sample(scores, positions).tolist()
