"""Every parameter and report through the engine: the same whatever is drafted, batched or chunked.

The drafts are those of random weights (hardly any accepted), of the target disturbed (some) and of
the target itself (all).
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from shard.wire.protocol import LogitBias, ReportOptions, RowResult, Sampling, TopTokens
from tests.support import driver, samplings
from tests.support.driver import DrivePlan, RowSpec, drive
from tests.support.pairs import Model, noisy_copy, with_eos
from tests.support.samplings import EOS, SAMPLINGS
from tests.support.tiny import VOCABULARY, engine

DRAFTS = ("none", "some", "all")


@pytest.fixture(params=DRAFTS)
def drafted(request: pytest.FixtureRequest, model: Model) -> Any:
    """An engine whose drafts are accepted never, sometimes or always; it ends texts with EOS."""
    target = model("llama")
    drafts = {"none": model("llama", 1), "some": noisy_copy(target), "all": target}
    return engine(with_eos(target, EOS), drafts[request.param]), request.param


def asks(sampling: Sampling, report: ReportOptions = samplings.TOKENS_ONLY) -> list[RowSpec]:
    rng = random.Random(3)
    prompts = [tuple(rng.randrange(VOCABULARY) for _ in range(size)) for size in (1, 4, 11)]
    return [
        RowSpec(prompt, 16, replace(sampling, seed=seed), report)
        for seed, prompt in enumerate(prompts)
    ]


def items(served: Any, wanted: list[RowSpec], plan: DrivePlan) -> list[RowResult]:
    served.reset()
    return driver.run_steps(wanted, plan, lambda step: served.execute(step).items)


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
def test_tokens_are_those_of_the_plain_path(drafted: Any, sampling: Sampling) -> None:
    served, kind = drafted
    plain = drive(served, asks(sampling), DrivePlan(batch=1))
    for plan in (DrivePlan(draft=1), DrivePlan(draft=4, batch=1), DrivePlan(draft=5, chunk=3)):
        done = items(served, asks(sampling), plan)
        assert driver.tokens_by_row(done, 3) == plain
        offered, kept = (
            sum(item.drafted for item in done if item.end is None),
            sum(item.accepted for item in done if item.end is None),
        )
        assert offered > 0
        assert kind != "all" or kept == offered


def test_a_batch_of_all_parameters_at_once_is_the_plain_path(drafted: Any) -> None:
    served, _ = drafted
    mixed = [replace(asks(each)[1], max_new=20) for each in SAMPLINGS.values()]
    plain = drive(served, mixed, DrivePlan(batch=1))
    assert drive(served, mixed, DrivePlan(draft=4)) == plain


def test_the_end_waits_for_the_minimum_and_may_then_come(drafted: Any) -> None:
    served, _ = drafted
    eager = Sampling(bias=(LogitBias(EOS, 90.0),), min_new_tokens=6)
    for row in drive(served, asks(eager), DrivePlan(draft=4)):
        assert len(row) == 7
        assert row.index(EOS) == 6


def told(served: Any, wanted: list[RowSpec], plan: DrivePlan) -> list[tuple[Any, ...]]:
    """Per row: token, log-probability and most likely tokens at every position."""
    done = items(served, wanted, plan)
    return [
        tuple(
            place
            for item in done
            if item.id == id
            for place in zip(item.tokens, item.logprobs, item.top, strict=True)
        )
        for id in range(len(wanted))
    ]


@pytest.mark.parametrize("raw", [False, True])
def test_the_likeliest_tokens_do_not_depend_on_the_draft(drafted: Any, raw: bool) -> None:
    served, _ = drafted
    wanted = asks(SAMPLINGS["all"], ReportOptions(top_n=4, raw_logprobs=raw))
    plain, fast = (told(served, wanted, plan) for plan in (DrivePlan(batch=1), DrivePlan(draft=4)))
    for row, other in zip(plain, fast, strict=True):
        for (token, logprob, top), (token2, logprob2, top2) in zip(row, other, strict=True):
            assert (token, top.ids) == (token2, top2.ids)
            assert logprob == pytest.approx(logprob2, abs=1e-4)
            assert top.logprobs == pytest.approx(top2.logprobs, abs=1e-4)
            assert sorted(top.logprobs, reverse=True) == list(top.logprobs)
            if token in top.ids:
                assert top.logprobs[top.ids.index(token)] == logprob


def raw_logs(path: str, ids: list[int]) -> torch.Tensor:
    """transformers' own log-probabilities [tokens, V]."""
    module = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    with torch.inference_mode():
        logs: torch.Tensor = module(torch.tensor([ids])).logits[0].log_softmax(-1)
    return logs


def test_raw_log_probabilities_are_the_models_own(model: Model) -> None:
    served = engine(model("llama"), model("llama", 1))
    [ask, *_] = asks(SAMPLINGS["all"], ReportOptions(top_n=3, raw_logprobs=True))
    [row] = told(served, [ask], DrivePlan(draft=3))
    logs = raw_logs(model("llama"), [*ask.prompt, *(token for token, _, _ in row)])
    for place, (token, logprob, top) in enumerate(row, len(ask.prompt) - 1):
        assert logprob == pytest.approx(logs[place, token].item(), abs=1e-4)
        assert list(top.ids) == logs[place].topk(3).indices.tolist()


@pytest.mark.parametrize("chunk", [1, 3, 4, 1000])
def test_a_prompts_log_probabilities_are_the_models_own_in_any_chunks(
    model: Model, chunk: int
) -> None:
    served = engine(model("llama"), model("llama", 1))
    wanted = asks(SAMPLINGS["all"], ReportOptions(top_n=2, prompt_logprobs=True))
    wanted.append(replace(wanted[2], report=samplings.TOKENS_ONLY))
    done = items(served, wanted, DrivePlan(draft=3, chunk=chunk))
    for id, ask in enumerate(wanted[:3]):
        found: dict[int, float] = {}
        tops: dict[int, TopTokens] = {}
        for item in (item for item in done if item.id == id):
            found |= dict(enumerate(item.prompt_logprobs, item.prompt_start))
            tops |= dict(enumerate(item.prompt_top, item.prompt_start))
        logs = raw_logs(model("llama"), list(ask.prompt))
        places = range(1, len(ask.prompt))
        expected = [logs[place - 1, ask.prompt[place]].item() for place in places]
        assert [found[place] for place in places] == pytest.approx(expected, abs=1e-4)
        assert set(found) == set(tops) == set(places)
        for place, top in tops.items():
            assert list(top.ids) == logs[place - 1].topk(2).indices.tolist()
            told = dict(zip(top.ids, top.logprobs, strict=True))
            assert told.get(ask.prompt[place], found[place]) == found[place]
    assert not any(item.prompt_logprobs for item in done if item.id == 3)
    silent = [replace(ask, report=samplings.TOKENS_ONLY) for ask in wanted]
    assert driver.tokens_by_row(done, 4) == drive(served, silent, DrivePlan(batch=1))
