"""The main claim, on the bundled pair: the text depends only on prompt, parameters and seed.

Fifty prompts, greedy and sampled with fixed seeds. The reference is the target alone, one request
at a time; for greedy decoding it is transformers' `generate`. Answers over HTTP, from one shard or
two, under any scheduler, must have the same token ids.
"""

from __future__ import annotations

import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from benchmark.demo.prompts import prompts
from shard.wire.protocol import Sampling
from tests.support.driver import DrivePlan, RowSpec, drive
from tests.support.nightly import nightly
from tests.support.paths import ROOT
from tests.support.processes import launched
from tests.support.reference import generate_greedily, greedy_choices
from tests.support.tiny import engine

TARGET, DRAFT = (str(ROOT / "shard" / "demo" / part) for part in ("target", "draft"))
TOKENS = 20
KINDS = {
    "greedy": Sampling(),
    "sampled": Sampling(temperature=0.9, top_k=50, top_p=0.95, repetition_penalty=1.1),
}


@cache
def texts() -> list[str]:
    return [prompt.text for prompt in prompts(None, 50, seed=3)]


@cache
def specs(kind: str) -> list[RowSpec]:
    tokenizer = Tokenizer.from_file(f"{TARGET}/tokenizer.json")
    return [
        RowSpec(tuple(tokenizer.encode(text).ids), TOKENS, replace(KINDS[kind], seed=index))
        for index, text in enumerate(texts())
    ]


@cache
def reference(kind: str) -> list[list[int]]:
    """The target alone, without a draft, one request at a time."""
    return drive(engine(TARGET), specs(kind), DrivePlan(batch=1))


@pytest.fixture(scope="session")
def random_draft(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A draft of the right vocabulary that knows nothing."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("random-draft")
    LlamaForCausalLM(LlamaConfig.from_pretrained(DRAFT)).float().save_pretrained(folder)
    return str(folder)


def test_greedy_tokens_are_those_that_transformers_chooses() -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(TARGET, dtype=torch.float32).eval()
    torch.set_num_threads(1)
    emitted = reference("greedy")
    assert emitted == [*map(partial(greedy_choices, model), specs("greedy"), emitted)]


@pytest.mark.parametrize("prompts", [4, nightly(50)])
def test_greedy_tokens_are_those_that_transformers_generates(prompts: int) -> None:
    torch.set_num_threads(1)
    generated = [generate_greedily(TARGET, spec) for spec in specs("greedy")[:prompts]]
    assert reference("greedy")[:prompts] == generated


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("draft", [nightly(0), nightly(1), 3, nightly(5)])
def test_the_draft_and_the_batch_change_no_token(kind: str, draft: int) -> None:
    assert drive(engine(TARGET, DRAFT), specs(kind), DrivePlan(draft=draft)) == reference(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_draft_of_random_weights_changes_no_token(kind: str, random_draft: str) -> None:
    assert drive(engine(TARGET, random_draft), specs(kind), DrivePlan(draft=3)) == reference(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_two_shards_change_no_token(served_pair: str, kind: str) -> None:
    assert answers(served_pair, kind) == reference(kind)


@pytest.mark.nightly
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("shards", "scheduler"), [("1", "fcfs"), ("1", "laps-sd"), ("2", "laps-sd"), ("2", "las")]
)
def test_shards_and_schedulers_change_no_token(kind: str, shards: str, scheduler: str) -> None:
    flags = ("--num-shard", shards, "--scheduler", scheduler, "--measurement-cache", "none")
    with launched(*flags) as server:
        assert answers(server.url(), kind) == reference(kind)


def test_several_drafters_change_no_token() -> None:
    with launched("--drafter", "auto", "--measurement-cache", "none") as server:
        url = server.url()
        for kind in KINDS:
            assert answers(url, kind) == reference(kind)


def answers(url: str, kind: str) -> list[list[int]]:
    """The token ids of the answers to all texts, 16 requests at a time."""
    with ThreadPoolExecutor(16) as pool:
        return [*pool.map(partial(post, url, KINDS[kind]), range(50), texts())]


def post(url: str, sampling: Sampling, seed: int, text: str) -> list[int]:
    """The token ids of one answer."""
    parameters: dict[str, object] = {"max_new_tokens": TOKENS, "details": True}
    if sampling.temperature:
        parameters |= {
            "do_sample": True,
            "seed": seed,
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "repetition_penalty": sampling.repetition_penalty,
        }
    body = json.dumps({"inputs": text, "parameters": parameters}).encode()
    request = urllib.request.Request(f"{url}/generate", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        details = json.loads(answer.read())["details"]
    return [token["id"] for token in details["tokens"]]


def test_the_bundle_stays_small() -> None:
    files = [file for part in (TARGET, DRAFT) for file in Path(part).rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 16_000_000
