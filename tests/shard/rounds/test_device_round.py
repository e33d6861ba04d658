"""A round that stays on the device says what the host's round says, token for token."""

from __future__ import annotations

import random
from dataclasses import fields, replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from shard.attention import backends
from shard.engine import Engine
from shard.model.attention_adapters.adapter_table import build_implementation, install_adapter
from shard.model.packed_model import LoadedModel, PackedModel, layer_shapes, probe_attention
from shard.rounds import device_sampling
from shard.rounds.device_round import DeviceRound
from shard.rounds.device_rows import ON_DEVICE, DeviceRowTable, SamplingKind
from shard.rounds.model_drafter import ModelDrafter
from shard.rounds.round_result import result_width
from shard.rounds.vocabulary_map import VocabularyMap
from shard.sampling.sampler import as_int64, mix64, mix64_tensor, stream_key
from shard.wire.protocol import (
    AppendPages,
    End,
    LogitBias,
    NewRow,
    ProtocolError,
    ReportOptions,
    RowWork,
    Sampling,
    Step,
)
from tests.support import driver, tiny
from tests.support.device_rounds import RoundWatch, device_engine, run_both
from tests.support.driver import DEVICE_PLANS, DrivePlan, RowSpec, device_specs, drive
from tests.support.nightly import nightly, thinned
from tests.support.pairs import (
    PIECES,
    Model,
    noisy_copy,
    renumbered,
    with_eos,
    with_vocabulary,
)
from tests.support.samplings import DEVICE_SAMPLINGS, EOS, EOS_IDS, GREEDY, TOKENS_ONLY
from tests.support.tiny import VOCABULARY

PAIRS = ("none", "some", "all")
"""How many drafts are accepted."""


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest, model: Model) -> tuple[Engine, Engine]:
    """The host's rounds and resident ones of a pair whose drafts are accepted never to always."""
    target = model("llama")
    drafts = {"none": model("llama", 1), "some": noisy_copy(target), "all": target}
    target, draft = with_eos(target, *EOS_IDS), drafts[request.param]
    return tiny.engine(target, draft), device_engine(target, draft)


def test_every_field_on_the_list_of_the_device_is_compared_with_the_host() -> None:
    changed = {
        field.name
        for given in DEVICE_SAMPLINGS.values()
        for field in fields(Sampling)
        if getattr(given, field.name) != getattr(Sampling(), field.name)
    }
    assert changed | {"seed"} == {field.name for field in fields(Sampling)} & ON_DEVICE


@pytest.mark.parametrize(
    ("name", "pair", "plan"),
    thinned(
        [(name,) for name in DEVICE_SAMPLINGS],
        list(product(PAIRS, range(len(DEVICE_PLANS)))),
        6,
    ),
    indirect=["pair"],
)
def test_every_item_is_the_hosts(
    pair: tuple[Engine, Engine], name: str, plan: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = RoundWatch(pair[1], monkeypatch)
    specs = device_specs([DEVICE_SAMPLINGS[name]] * 8)
    hosted, found = run_both(*pair, specs, DEVICE_PLANS[plan])
    for wanted, item in zip(hosted, found, strict=True):
        assert item.logprobs == pytest.approx(wanted.logprobs, abs=1e-4)
        assert replace(item, logprobs=(), draft_cached=0) == replace(
            wanted, logprobs=(), draft_cached=0
        )
    assert watch.decoding == {"resident"}


def test_a_batch_of_all_parameters_at_once_is_the_plain_path(pair: tuple[Engine, Engine]) -> None:
    wanted = device_specs([*DEVICE_SAMPLINGS.values()])
    plain = drive(pair[0], wanted, DrivePlan(batch=1))
    for plan in DEVICE_PLANS:
        assert drive(pair[1], wanted, plan) == plain


def test_the_models_own_logprobs_are_told_where_they_are_asked_for(
    pair: tuple[Engine, Engine],
) -> None:
    wanted = device_specs(
        [DEVICE_SAMPLINGS["every warper"], DEVICE_SAMPLINGS["minimum"]] * 4,
        ReportOptions(raw_logprobs=True),
    )
    wanted[0] = replace(wanted[0], report=TOKENS_ONLY)
    hosted, found = run_both(*pair, wanted, DEVICE_PLANS[2])
    for item, other in zip(found, hosted, strict=True):
        assert item.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_a_row_may_ignore_the_ends_of_texts(pair: tuple[Engine, Engine]) -> None:
    emitted = []
    for engine in pair:
        engine.reset()
        step = Step(
            1,
            (),
            tuple(NewRow(id, (5, 6, id), 3, 40, id == 1, GREEDY) for id in (1, 2)),
            (AppendPages(1, (1, 2, 3)), AppendPages(2, (4, 5, 6))),
            (RowWork(1, 3, 0), RowWork(2, 3, 0)),
        )
        items = list(engine.execute(step).items)
        for _ in range(40):
            items += engine.execute(Step(2, (), (), (), (RowWork(1, 0, 5), RowWork(2, 0, 5)))).items
        emitted.append(driver.tokens_by_row(items, 3))
    assert emitted[0] == emitted[1]
    assert len(emitted[0][1]) == 40


@pytest.mark.parametrize(
    "name",
    [
        *("qwen3", "mistral", "gemma2", "gemma3", "gpt2", "gpt-oss"),
        *("bloom", "gpt-neo", "deepseek-v3", "llama4", "lfm2"),
    ],
)
def test_every_kind_of_attention_stays_on_the_device(model: Model, name: str) -> None:
    wanted = device_specs([DEVICE_SAMPLINGS["top-p"], GREEDY] * 2)
    plain = drive(tiny.engine(model(name)), wanted, DrivePlan(batch=1))
    assert drive(device_engine(model(name), model("gemma3", 1)), wanted, DEVICE_PLANS[1]) == plain


@pytest.fixture(scope="module")
def mapped(model: Model, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """Pairs whose vocabularies differ in numbers, in size, or in both."""
    place = tmp_path_factory.mktemp("mapped")
    order = random.Random(5).sample(range(VOCABULARY), VOCABULARY)
    target = with_vocabulary(model("llama"), place / "target", PIECES)
    wide = with_vocabulary(model("llama-wide"), place / "wide", PIECES)
    return [
        (target, renumbered(model("llama"), place / "shuffled", order)),
        (target, renumbered(model("llama"), place / "part", order[:70])),
        (target, wide),
        (wide, with_vocabulary(model("llama", 1), place / "narrow", PIECES)),
    ]


@pytest.mark.parametrize("place", range(4), ids=["shuffled", "part", "padded", "shorter"])
def test_drafts_of_another_vocabulary_stay_on_the_device(
    mapped: list[tuple[str, str]], place: int
) -> None:
    hosted, found = run_both(
        tiny.engine(*mapped[place]),
        device_engine(*mapped[place]),
        device_specs([DEVICE_SAMPLINGS["temperature"], GREEDY] * 4),
        DEVICE_PLANS[1],
    )
    assert driver.tokens_by_row(found, 8) == driver.tokens_by_row(hosted, 8)
    assert sum(item.accepted for item in found) == sum(item.accepted for item in hosted)
    assert [item.drafted for item in found] == [item.drafted for item in hosted]


def test_nothing_is_drafted_beyond_the_context_of_the_draft(model: Model, tmp_path: Path) -> None:
    short: Any = AutoModelForCausalLM.from_pretrained(model("gpt2", 1))
    short.config.n_positions = 20
    short.transformer.wpe.weight.data = short.transformer.wpe.weight.data[:20].clone()
    short.save_pretrained(tmp_path / "short")
    served = device_engine(model("llama"), str(tmp_path / "short"))
    hosted = tiny.engine(model("llama"), str(tmp_path / "short"))
    wanted = [RowSpec((5, 6, 7), 40), RowSpec((8,) * 18, 30), RowSpec((9,) * 25, 30)]
    one, other = run_both(hosted, served, wanted, DrivePlan(draft=4))
    assert driver.tokens_by_row(one, 3) == driver.tokens_by_row(other, 3)
    assert [item.drafted for item in one] == [item.drafted for item in other]


HOST_REASONS: dict[str, dict[str, Any]] = {
    "a prefill": {"run": RowWork(1, 1, 0), "new": {"cached": 2}},
    "a row of one token": {"new": {"tokens": (5,), "prompt": 1, "cached": 0}},
    "a grammar": {"new": {"grammar": "a+"}},
    "`top_n`": {"new": {"report": ReportOptions(top_n=2)}},
    "`watermark`": {"new": {"sampling": Sampling(watermark=True)}},
    "`bias`": {"new": {"sampling": Sampling(bias=(LogitBias(3, 1.0),))}},
    "`repetition_penalty`": {"new": {"sampling": Sampling(repetition_penalty=1.1)}},
    "`frequency_penalty`": {"new": {"sampling": Sampling(frequency_penalty=0.1)}},
    "`presence_penalty`": {"new": {"sampling": Sampling(presence_penalty=0.1)}},
    "a draft that has fallen behind": {"run": RowWork(1, 0, 2), "new": {"draft_cached": 0}},
    "resident": {"run": RowWork(1, 0, 2)},
}


@pytest.mark.parametrize("reason", HOST_REASONS)
def test_what_needs_the_host_is_with_vocabulary(
    model: Model, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = device_engine(model("llama"), model("llama", 1))
    served.reset()
    monkeypatch.setattr(served._rows, "_matcher", lambda _: _FailedMatcher())
    watch, case = RoundWatch(served, monkeypatch), HOST_REASONS[reason]
    given: dict[str, Any] = {"cached": 2, "draft_cached": 2, **case.get("new", {})}
    new = replace(NewRow(1, (5, 6, 7), 3, 9, False, GREEDY), **given)
    served.execute(
        Step(1, (), (new,), (AppendPages(1, (1,)),), (case.get("run", RowWork(1, 0, 0)),))
    )
    assert watch.kinds == [reason]


class _FailedMatcher:
    """Stands for a grammar: its row ends at once."""

    def mask(self, output: list[int], vocabulary: int) -> torch.Tensor:
        return torch.ones(vocabulary, dtype=torch.bool)

    def fault(self, output: list[int]) -> str:
        return "the grammar allows no token here"

    def can_end(self, output: list[int]) -> bool:
        return False

    def is_complete(self, output: list[int]) -> bool:
        return False

    def take_seconds(self) -> float:
        return 0.0


def test_prompt_lookup_drafts_on_the_host_and_decodes_on_the_device(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = device_engine(model("llama"), None)
    wanted = [RowSpec((5, 6, 7) * 5, 20), RowSpec((8, 9), 20)]
    plain = drive(tiny.engine(model("llama")), wanted, DrivePlan(batch=1))
    watch = RoundWatch(served, monkeypatch)
    assert drive(served, wanted, DrivePlan(draft=3)) == plain
    assert watch.decoding == {"a drafter that runs on the host"}
    assert drive(served, wanted, DrivePlan()) == plain
    assert "resident" in watch.decoding


def test_a_draft_that_fell_behind_is_brought_up_by_one_round_of_the_host(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = device_engine(model("llama"), model("llama"))
    [whole] = drive(served, [RowSpec((5, 6, 7), 40)], DrivePlan())
    served.reset()
    new, grow = NewRow(1, (5, 6, 7), 3, 40, True, GREEDY), AppendPages(1, (1, 2, 3))
    items = [*served.execute(Step(1, (), (new,), (grow,), (RowWork(1, 3, 0),))).items]
    watch = RoundWatch(served, monkeypatch)
    for draft in (2, 0, 0, 2, 2):
        items += served.execute(Step(2, (), (), (), (RowWork(1, 0, draft),))).items
    behind = "a draft that has fallen behind"
    assert watch.kinds == ["resident", "resident", "resident", behind, "resident"]
    assert [item.accepted for item in items] == [0, 2, 0, 0, 2, 2]
    assert [token for item in items for token in item.tokens] == whole[: 1 + 3 + 1 + 1 + 3 + 3]


def test_a_row_whose_draft_lacks_more_than_a_round_feeds_writes_none_of_it(model: Model) -> None:
    served = device_engine(model("llama"), model("llama"))
    served.reset()
    late = NewRow(2, (7, 8, 9, 6), 4, 20, True, GREEDY, cached=3)
    new, grow = (
        (NewRow(1, (5, 6), 2, 20, True, GREEDY), late),
        (AppendPages(1, (1,)), AppendPages(2, (2,))),
    )
    served.execute(Step(1, (), new, grow, (RowWork(1, 2, 0),)))
    pools = tiny.model_drafter(served).model.cache.pools_by_page
    before = [pool[2].clone().view(torch.int32) for pool in pools]
    items = served.execute(Step(2, (), (), (), (RowWork(1, 0, 3), RowWork(2, 0, 0)))).items
    assert [(item.drafted, item.draft_cached) for item in items] == [(3, 5), (0, 0)]
    assert all(
        torch.equal(one, pool[2].view(torch.int32)) for one, pool in zip(before, pools, strict=True)
    )


def test_a_row_whose_logits_are_not_numbers_ends_alone(model: Model) -> None:
    served = device_engine(model("llama"), model("llama"))
    served.reset()
    new = tuple(NewRow(id, (5, id, 6), 3, 9, True, GREEDY) for id in (1, 2))
    grow, runs = (AppendPages(1, (1,)), AppendPages(2, (2,))), (RowWork(1, 0, 0), RowWork(2, 0, 0))
    first = served.execute(Step(1, (), new, grow, (RowWork(1, 3, 0), RowWork(2, 3, 0))))
    bad, good = (item.tokens[0] for item in first.items)
    assert bad != good
    module: Any = served._target.facts.module
    poison = module.get_input_embeddings().weight
    saved = poison[bad].clone()
    poison[bad] = float("nan")
    try:
        ends = [item.end for item in served.execute(Step(2, (), (), (), runs)).items]
    finally:
        poison[bad] = saved
    assert ends == [End.ERROR, None]
    assert [item.id for item in served.execute(Step(3, (), (), (), runs)).items] == [2]


def test_a_row_without_pages_for_its_tokens_is_refused(model: Model) -> None:
    served = device_engine(model("llama"), model("llama", 1))
    served.reset()
    new = NewRow(1, (5,) * 15, 15, 20, True, GREEDY, cached=14, draft_cached=14)
    served.execute(Step(1, (), (new,), (AppendPages(1, (1,)),), (RowWork(1, 0, 0),)))
    with pytest.raises(ProtocolError, match="row 1 has no page for position 16"):
        served.execute(Step(2, (), (), (), (RowWork(1, 0, 1),)))


def test_a_round_without_memory_is_the_hosts(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    served = device_engine(model("llama"), model("llama"))
    wanted = device_specs([DEVICE_SAMPLINGS["top-k"], GREEDY])
    plain = drive(tiny.engine(model("llama")), wanted, DrivePlan(batch=1))

    def full(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(DeviceRound, "_verify", full)
    assert drive(served, wanted, DrivePlan(draft=3)) == plain


READS = ("_local_scalar_dense", "nonzero", "item", "equal", "is_nonzero", "masked_select", "unique")


class NoDeviceReads(TorchDispatchMode):
    """Raises for whatever a host would have to wait for on a device."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function.__name__.split(".")[0]
        if name.strip("_") in {each.strip("_") for each in READS}:
            raise AssertionError(f"the host reads the device: {name}")
        if name in ("index", "index_put", "index_put_"):
            assert all(at is None or at.dtype == torch.int64 for at in args[1]), name
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("given", DEVICE_SAMPLINGS.values(), ids=DEVICE_SAMPLINGS)
def test_starting_a_round_reads_nothing_back(
    model: Model, given: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = device_engine(model("llama"), model("llama", 1))
    served.reset()
    monkeypatch.setattr(device_sampling, "argmax", lambda scores: scores.argmax(-1))
    new = NewRow(1, (5, 6, 7), 3, 20, True, given)
    served.execute(Step(1, (), (new,), (AppendPages(1, (1,)),), (RowWork(1, 3, 0),)))
    with NoDeviceReads():  # type: ignore[no-untyped-call]
        flights = [
            served.start(Step(2, (), (), (), (RowWork(1, 0, 3),))),
            served.start(Step(3, (), (), (AppendPages(1, (2,)),), (RowWork(1, 0, 2),))),
        ]
    tokens = [
        token for flight in flights for item in flight.result().items for token in item.tokens
    ]
    assert (
        tokens
        == drive(tiny.engine(model("llama")), [RowSpec((5, 6, 7), 20, given)], DrivePlan())[0][
            1 : 1 + len(tokens)
        ]
    )


META = torch.device("meta")


@pytest.mark.parametrize(
    "name",
    [
        *("llama", "gemma3", "falcon-alibi", "lfm2"),
        *map(nightly, ("gpt2", "phi3", "gptj", "mpt", "llama4")),
    ],
)
def test_a_whole_round_runs_where_there_are_no_values(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the meta device every read of a value is an error, in transformers' code too."""
    monkeypatch.setattr(backends, "choose_backend", lambda _: backends.SdpaAttention())
    with torch.inference_mode():
        target, draft = (PackedModel(weightless(each), 20) for each in (name, "llama"))
        bridge = VocabularyMap(VOCABULARY, VOCABULARY, {id: 100 - id for id in range(90)}, META)
        table = DeviceRowTable(8, 8, VOCABULARY, META)
        drafter = ModelDrafter(draft, frozenset({EOS}), bridge)
        rounds = DeviceRound(target, drafter.device_drafter, table)
        numbers = torch.ones(2, 4, dtype=torch.int64, device=META)
        for kind in SamplingKind:
            for drafts in (0, 3):
                result = rounds.run(numbers, drafts, kind)
                assert result.shape == (4, result_width(drafts))


def weightless(name: str) -> LoadedModel:
    config = tiny.CONFIGS[name]()
    with META:
        module = AutoModelForCausalLM.from_config(
            config, attn_implementation=build_implementation(config)
        ).eval()
    install_adapter(module)
    shapes = layer_shapes(module, name, probe_attention(module, name, META))
    return LoadedModel(name, module, shapes, torch.float32, META, VOCABULARY, 128, frozenset({EOS}))


def test_keys_mixed_on_the_device_are_the_hosts() -> None:
    rng = random.Random(0)
    seeds = [0, 1, (1 << 64) - 1, 1 << 63, *(rng.randrange(1 << 64) for _ in range(200))]
    positions = [rng.randrange(1 << 20) for _ in seeds]
    once = torch.tensor([as_int64(mix64(seed)) for seed in seeds])
    found = mix64_tensor(once + torch.tensor(positions)).tolist()
    assert found == [as_int64(stream_key(*each)) for each in zip(seeds, positions, strict=True)]
