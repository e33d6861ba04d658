"""The comparison of drafters: its texts, its contenders' capacities, and its summary."""

from __future__ import annotations

import json

import pytest

from benchmark.engine.drafters import Contender, summarise, tokens_per_second
from benchmark.engine.in_process import device_capacity
from benchmark.engine.kinds_of_work import KINDS, grammar
from shard.wire.protocol import MAX_FORCED_TOKENS
from tests.support.text_engine import TOKENIZER, text_engine


@pytest.mark.parametrize("kind", KINDS)
def test_no_two_prompts_of_a_batch_are_equal(kind: str) -> None:
    assert len({KINDS[kind](number) for number in range(32)}) == 32


def test_only_json_has_a_grammar() -> None:
    assert [kind for kind in KINDS if grammar(kind)] == ["json"]


@pytest.mark.parametrize("kind", ["chat", "json"])
@pytest.mark.parametrize("forced", [0, MAX_FORCED_TOKENS])
def test_a_contender_has_a_rate_for_every_batch(
    tmp_path_factory: pytest.TempPathFactory, kind: str, forced: int
) -> None:
    engine = text_engine(str(tmp_path_factory.mktemp("text")), None)
    contender = Contender("plain", engine, device_capacity(engine.ready(), speculate=0), forced)
    prompts = [tuple(TOKENIZER.encode("I would say " * (1 + n)).ids) for n in range(3)]
    assert tokens_per_second(contender, prompts, 12, kind) > 0


def test_the_summary_has_the_worst_case_of_each_claim() -> None:
    figures = {
        "demo_json_forced_batch1": 1.5,
        "demo_json_auto_batch1": 1.4,
        "demo_json_forced_batch8": 1.1,
        "demo_json_auto_batch8": 1.2,
        "smollm2_edit_suffix_batch1": 2.0,
        "smollm2_edit_auto_batch1": 1.9,
        "smollm2_chat_suffix_batch1": 0.9,
        "smollm2_chat_auto_batch1": 0.98,
    }
    summary = summarise({f"drafter_cases.{name}": ratio for name, ratio in figures.items()})
    assert json.loads(json.dumps(summary)) == {
        "drafters.auto_over_best": pytest.approx(1.4 / 1.5),
        "drafters.auto_over_best_median": pytest.approx((1.9 / 2 + 0.98) / 2),
        "drafters.auto_over_plain_worst": 0.98,
        "drafters.forced_over_plain": 1.5,
        "drafters.suffix_over_plain_on_edits": 2.0,
    }
