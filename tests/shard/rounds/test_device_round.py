"""A round that stays on the device says what the host's round says, token for token."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from shard.attention import backends, interface
from shard.engine import Engine
from shard.model.packed_model import Loaded, PackedModel, probe
from shard.rounds import device_sampling
from shard.rounds.device_round import Resident, columns
from shard.rounds.device_rows import DeviceRows, Kind
from shard.rounds.drafters import ModelDrafter
from shard.rounds.vocabulary_map import Bridge
from shard.sampling.sampler import mix64, mixed, signed, stream_key
from shard.wire.protocol import Bias, End, Grow, New, ProtocolError, Report, Run, Sampling, Step
from tests.shard.rounds.test_drafters import PIECES, named, renumbered
from tests.shard.sampling.test_parameters import DRAFTS, EOS, SAMPLINGS, disturbed
from tests.support import tiny
from tests.support.device_rounds import Watch, both, ending, resident
from tests.support.tiny import GREEDY, SILENT, VOCABULARY, Ask, Plan, drive

Model = Callable[..., str]
HOSTED = ("repetition", "frequency", "presence", "bias", "watermark", "all")
SAID = {
    **{name: given for name, given in SAMPLINGS.items() if name not in HOSTED},
    "greedy": Sampling(),
    "every warper": Sampling(0, 0.9, 60, 0.95, typical_p=0.95, min_p=0.001, min_new_tokens=9),
}
ENDS = (EOS, 9, 33)
PLANS = [
    Plan(draft=5, batch=1),
    Plan(draft=3, batch=3, scattered=True),
    Plan(mixed=(5, 0, 2, 1), batch=8),
    Plan(batch=8),
]


def asks(samplings: list[Sampling], report: Report = SILENT) -> list[Ask]:
    """A prompt for each of `samplings`, of 1 to 30 tokens; the lengths to emit differ too."""
    rng = random.Random(3)
    return [
        Ask(
            tuple(rng.randrange(VOCABULARY) for _ in range(rng.choice((1, 2, 9, 17, 30)))),
            rng.choice((1, 2, 7, 30)),
            replace(given, seed=seed),
            report,
        )
        for seed, given in enumerate(samplings)
    ]


@pytest.fixture(params=DRAFTS)
def pair(request: pytest.FixtureRequest, model: Model) -> tuple[Engine, Engine]:
    """The host's rounds and resident ones of a pair whose drafts are accepted never to always."""
    target = model("llama")
    drafts = {"none": model("llama", 1), "some": disturbed(target), "all": target}
    target, draft = ending(target, *ENDS), drafts[request.param]
    return tiny.engine(target, draft), resident(target, draft)


@pytest.mark.parametrize("plan", PLANS, ids=str)
@pytest.mark.parametrize("given", SAID.values(), ids=SAID)
def test_every_item_is_the_hosts(
    pair: tuple[Engine, Engine], given: Sampling, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(pair[1], monkeypatch)
    hosted, found = both(*pair, asks([given] * 8), plan)
    for wanted, item in zip(hosted, found, strict=True):
        assert item.logprobs == pytest.approx(wanted.logprobs, abs=1e-4)
        same = {"logprobs": (), "draft_cached": 0}
        assert replace(item, **same) == replace(wanted, **same)
    assert watch.decoding == {"resident"}


def test_a_batch_of_all_parameters_at_once_is_the_plain_path(pair: tuple[Engine, Engine]) -> None:
    wanted = asks([*SAID.values()] * 2)
    plain = drive(pair[0], wanted, Plan(batch=1))
    for plan in PLANS:
        assert drive(pair[1], wanted, plan) == plain


def test_the_models_own_logprobs_are_told_where_they_are_asked_for(
    pair: tuple[Engine, Engine],
) -> None:
    wanted = asks([SAID["every warper"], SAID["minimum"]] * 4, Report(raw=True))
    wanted[0] = replace(wanted[0], report=SILENT)
    hosted, found = both(*pair, wanted, PLANS[2])
    for item, other in zip(found, hosted, strict=True):
        assert item.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_a_row_may_ignore_the_ends_of_texts(pair: tuple[Engine, Engine]) -> None:
    emitted = []
    for engine in pair:
        engine.reset()
        step = Step(
            1,
            (),
            tuple(New(id, (5, 6, id), 3, 40, id == 1, GREEDY) for id in (1, 2)),
            (Grow(1, (1, 2, 3)), Grow(2, (4, 5, 6))),
            (Run(1, 3, 0), Run(2, 3, 0)),
        )
        items = list(engine.execute(step).items)
        for _ in range(40):
            items += engine.execute(Step(2, (), (), (), (Run(1, 0, 5), Run(2, 0, 5)))).items
        emitted.append(tiny.tokens(items, 3))
    assert emitted[0] == emitted[1]
    assert len(emitted[0][1]) == 40


@pytest.mark.parametrize("name", ["qwen3", "mistral", "gemma2", "gemma3", "gpt2", "gpt-oss"])
def test_every_kind_of_attention_stays_on_the_device(model: Model, name: str) -> None:
    wanted = asks([SAID["top-p"], GREEDY] * 4)
    plain = drive(tiny.engine(model(name)), wanted, Plan(batch=1))
    assert drive(resident(model(name), model("gemma3", 1)), wanted, PLANS[1]) == plain


@pytest.fixture(scope="module")
def mapped(model: Model, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """Pairs whose vocabularies differ in numbers, in size, or in both."""
    place = tmp_path_factory.mktemp("mapped")
    order = random.Random(5).sample(range(VOCABULARY), VOCABULARY)
    target = str(named(model("llama"), place / "target", PIECES))
    wide = str(named(model("llama-wide"), place / "wide", PIECES))
    return [
        (target, str(renumbered(model("llama"), place / "shuffled", order))),
        (target, str(renumbered(model("llama"), place / "part", order[:70]))),
        (target, wide),
        (wide, str(named(model("llama", 1), place / "narrow", PIECES))),
    ]


@pytest.mark.parametrize("place", range(4), ids=["shuffled", "part", "padded", "shorter"])
def test_drafts_of_another_vocabulary_stay_on_the_device(
    mapped: list[tuple[str, str]], place: int
) -> None:
    hosted, found = both(
        tiny.engine(*mapped[place]),
        resident(*mapped[place]),
        asks([SAID["temperature"], GREEDY] * 4),
        PLANS[1],
    )
    assert tiny.tokens(found, 8) == tiny.tokens(hosted, 8)
    assert sum(item.accepted for item in found) == sum(item.accepted for item in hosted)
    assert [item.drafted for item in found] == [item.drafted for item in hosted]


def test_nothing_is_drafted_beyond_the_context_of_the_draft(model: Model, tmp_path: Path) -> None:
    short = AutoModelForCausalLM.from_pretrained(model("gpt2", 1))
    short.config.n_positions = 20
    short.transformer.wpe.weight.data = short.transformer.wpe.weight.data[:20].clone()
    short.save_pretrained(tmp_path / "short")
    served = resident(model("llama"), str(tmp_path / "short"))
    hosted = tiny.engine(model("llama"), str(tmp_path / "short"))
    wanted = [Ask((5, 6, 7), 40), Ask((8,) * 18, 30), Ask((9,) * 25, 30)]
    one, other = both(hosted, served, wanted, Plan(draft=4))
    assert tiny.tokens(one, 3) == tiny.tokens(other, 3)
    assert [item.drafted for item in one] == [item.drafted for item in other]


REFUSED = {
    "a prefill": {"run": Run(1, 1, 0), "new": {"cached": 2}},
    "a row of one token": {"new": {"tokens": (5,), "prompt": 1, "cached": 0}},
    "a grammar": {"new": {"grammar": "a+"}},
    "a list of the likeliest tokens": {"new": {"report": Report(top_n=2)}},
    "a watermark": {"new": {"sampling": Sampling(watermark=True)}},
    "a bias": {"new": {"sampling": Sampling(bias=(Bias(3, 1.0),))}},
    "a repetition penalty": {"new": {"sampling": Sampling(repetition_penalty=1.1)}},
    "a frequency penalty": {"new": {"sampling": Sampling(frequency_penalty=0.1)}},
    "a presence penalty": {"new": {"sampling": Sampling(presence_penalty=0.1)}},
    "a draft that has fallen behind": {"run": Run(1, 0, 2), "new": {"draft_cached": 0}},
    "resident": {"run": Run(1, 0, 2)},
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_needs_the_host_is_named(
    model: Model, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = resident(model("llama"), model("llama", 1))
    served.reset()
    monkeypatch.setattr(served._rows, "_matcher", lambda _: _Broken())
    watch, case = Watch(served, monkeypatch), REFUSED[reason]
    given: dict[str, Any] = {"cached": 2, "draft_cached": 2, **case.get("new", {})}
    new = replace(New(1, (5, 6, 7), 3, 9, False, GREEDY), **given)
    served.execute(Step(1, (), (new,), (Grow(1, (1,)),), (case.get("run", Run(1, 0, 0)),)))
    assert watch.kinds == [reason]


class _Broken:
    """Stands for a grammar: its row ends at once."""

    broken = True

    def mask(self, output: list[int], vocabulary: int) -> torch.Tensor:
        return torch.ones(vocabulary, dtype=torch.bool)


def test_prompt_lookup_drafts_on_the_host_and_decodes_on_the_device(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = resident(model("llama"), None)
    wanted = [Ask((5, 6, 7) * 5, 20), Ask((8, 9), 20)]
    plain = drive(tiny.engine(model("llama")), wanted, Plan(batch=1))
    watch = Watch(served, monkeypatch)
    assert drive(served, wanted, Plan(draft=3)) == plain
    assert watch.decoding == {"drafts that are not a model's"}
    assert drive(served, wanted, Plan()) == plain
    assert "resident" in watch.decoding


def test_a_draft_that_fell_behind_is_brought_up_by_one_round_of_the_host(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = resident(model("llama"), model("llama"))
    [whole] = drive(served, [Ask((5, 6, 7), 40)], Plan())
    served.reset()
    new, grow = New(1, (5, 6, 7), 3, 40, True, GREEDY), Grow(1, (1, 2, 3))
    items = [*served.execute(Step(1, (), (new,), (grow,), (Run(1, 3, 0),))).items]
    watch = Watch(served, monkeypatch)
    for draft in (2, 0, 0, 2, 2):
        items += served.execute(Step(2, (), (), (), (Run(1, 0, draft),))).items
    behind = "a draft that has fallen behind"
    assert watch.kinds == ["resident", "resident", "resident", behind, "resident"]
    assert [item.accepted for item in items] == [0, 2, 0, 0, 2, 2]
    assert [token for item in items for token in item.tokens] == whole[: 1 + 3 + 1 + 1 + 3 + 3]


def test_a_row_whose_draft_lacks_more_than_a_round_feeds_writes_none_of_it(model: Model) -> None:
    served = resident(model("llama"), model("llama"))
    served.reset()
    late = New(2, (7, 8, 9, 6), 4, 20, True, GREEDY, cached=3)
    new, grow = (New(1, (5, 6), 2, 20, True, GREEDY), late), (Grow(1, (1,)), Grow(2, (2,)))
    served.execute(Step(1, (), new, grow, (Run(1, 2, 0),)))
    pools = served._drafter.model.cache.pools
    before = [pool[2].clone().view(torch.int32) for pool in pools]
    items = served.execute(Step(2, (), (), (), (Run(1, 0, 3), Run(2, 0, 0)))).items
    assert [(item.drafted, item.draft_cached) for item in items] == [(3, 5), (0, 0)]
    assert all(
        torch.equal(one, pool[2].view(torch.int32)) for one, pool in zip(before, pools, strict=True)
    )


def test_a_row_whose_logits_are_not_numbers_ends_alone(model: Model) -> None:
    served = resident(model("llama"), model("llama"))
    served.reset()
    new = tuple(New(id, (5, id, 6), 3, 9, True, GREEDY) for id in (1, 2))
    grow, runs = (Grow(1, (1,)), Grow(2, (2,))), (Run(1, 0, 0), Run(2, 0, 0))
    first = served.execute(Step(1, (), new, grow, (Run(1, 3, 0), Run(2, 3, 0))))
    bad, good = (item.tokens[0] for item in first.items)
    assert bad != good
    poison = served._target.facts.module.get_input_embeddings().weight
    saved = poison[bad].clone()
    poison[bad] = float("nan")
    try:
        ends = [item.end for item in served.execute(Step(2, (), (), (), runs)).items]
    finally:
        poison[bad] = saved
    assert ends == [End.ERROR, None]
    assert [item.id for item in served.execute(Step(3, (), (), (), runs)).items] == [2]


def test_a_row_without_pages_for_its_tokens_is_refused(model: Model) -> None:
    served = resident(model("llama"), model("llama", 1))
    served.reset()
    new = New(1, (5,) * 15, 15, 20, True, GREEDY, cached=14, draft_cached=14)
    served.execute(Step(1, (), (new,), (Grow(1, (1,)),), (Run(1, 0, 0),)))
    with pytest.raises(ProtocolError, match="row 1 has no page for position 16"):
        served.execute(Step(2, (), (), (), (Run(1, 0, 1),)))


def test_a_round_without_memory_is_the_hosts(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    served = resident(model("llama"), model("llama"))
    wanted = asks([SAID["top-k"], GREEDY])
    plain = drive(tiny.engine(model("llama")), wanted, Plan(batch=1))

    def full(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Resident, "_judge", full)
    assert drive(served, wanted, Plan(draft=3)) == plain


READS = ("_local_scalar_dense", "nonzero", "item", "equal", "is_nonzero", "masked_select", "unique")


class NoReading(TorchDispatchMode):
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


@pytest.mark.parametrize("given", SAID.values(), ids=SAID)
def test_starting_a_round_reads_nothing_back(
    model: Model, given: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = resident(model("llama"), model("llama", 1))
    served.reset()
    monkeypatch.setattr(device_sampling, "argmax", lambda scores: scores.argmax(-1))
    new = New(1, (5, 6, 7), 3, 20, True, given)
    served.execute(Step(1, (), (new,), (Grow(1, (1,)),), (Run(1, 3, 0),)))
    with NoReading():
        flights = [
            served.start(Step(2, (), (), (), (Run(1, 0, 3),))),
            served.start(Step(3, (), (), (Grow(1, (2,)),), (Run(1, 0, 2),))),
        ]
    tokens = [
        token for flight in flights for item in flight.result().items for token in item.tokens
    ]
    assert (
        tokens
        == drive(tiny.engine(model("llama")), [Ask((5, 6, 7), 20, given)], Plan())[0][
            1 : 1 + len(tokens)
        ]
    )


META = torch.device("meta")


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2", "phi3"])
def test_a_whole_round_runs_where_there_are_no_values(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the meta device whoever asks for a value gets an error, in transformers' code too."""
    monkeypatch.setattr(backends, "choose", lambda _: backends.SdpaRows())
    with torch.inference_mode():
        target, draft = (PackedModel(weightless(each), 20) for each in (name, "llama"))
        bridge = Bridge(VOCABULARY, VOCABULARY, {id: 100 - id for id in range(90)}, META)
        table = DeviceRows(8, 8, VOCABULARY, META)
        drafter = ModelDrafter(draft, frozenset({EOS}), bridge)
        rounds = Resident(target, drafter, table)
        numbers = torch.ones(2, 4, dtype=torch.int64, device=META)
        for kind in Kind:
            for drafts in (0, 3):
                result = rounds.round(numbers, drafts, kind)
                assert result.shape == (4, columns(drafts))


def weightless(name: str) -> Loaded:
    with META:
        module = AutoModelForCausalLM.from_config(
            tiny.CONFIGS[name](), attn_implementation=interface.IMPLEMENTATION
        ).eval()
    shapes = probe(module, name, META)
    return Loaded(name, module, shapes, torch.float32, META, VOCABULARY, 128, frozenset({EOS}))


def test_keys_mixed_on_the_device_are_the_hosts() -> None:
    rng = random.Random(0)
    seeds = [0, 1, (1 << 64) - 1, 1 << 63, *(rng.randrange(1 << 64) for _ in range(200))]
    positions = [rng.randrange(1 << 20) for _ in seeds]
    once = torch.tensor([signed(mix64(seed)) for seed in seeds])
    found = mixed(once + torch.tensor(positions)).tolist()
    assert found == [signed(stream_key(*each)) for each in zip(seeds, positions, strict=True)]
