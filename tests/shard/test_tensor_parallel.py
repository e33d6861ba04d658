"""Real ranks over gloo emit one rank's tokens, also where there are more ranks than KV heads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from shard.protocol import Ack, Item, Sampling, Step, StepResult
from tests.shard import tiny
from tests.shard.ranks import Rank, Wire, folder
from tests.shard.tiny import SAMPLED, SHARDED, Ask, Plan, drive, engine

Model = Callable[..., str]
ASKS = [Ask((5, 6, 7), 24, Sampling()), Ask(tuple(range(20)), 24, SAMPLED)]


@contextmanager
def group(model: str, draft: str, world: int) -> Iterator[list[Wire]]:
    """Connections to `world` ranks that serve together."""
    with folder() as path, ExitStack() as stack:
        ranks = [stack.enter_context(_rank(model, draft, n, world, path)) for n in range(world)]
        for rank in ranks:
            while (event := rank.event())["event"] == "progress":
                pass
            assert event == {"event": "ready"}
        wires = [stack.enter_context(Wire(rank.config.socket)) for rank in ranks]
        for wire, rank in zip(wires, ranks, strict=True):
            wire.greet(rank.config)
        yield wires


def _rank(model: str, draft: str, number: int, world: int, path: Path) -> Rank:
    return Rank(
        tiny.config(
            model,
            draft,
            rank=number,
            world=world,
            socket=str(path / f"{number}.sock"),
            rendezvous=str(path / "rendezvous"),
        )
    )


class Execute:
    """Sends each Step to every rank and checks that they agree."""

    def __init__(self, wires: Sequence[Wire]) -> None:
        self._wires = wires
        self._number = 0

    def __call__(self, step: Step) -> tuple[Item, ...]:
        self._number += 1
        numbered = Step(self._number, step.release, step.new, step.grow, step.run)
        for wire in self._wires:
            wire.send(numbered)
        result, *others = (wire.receive() for wire in self._wires)
        assert isinstance(result, StepResult)
        assert others == [Ack(self._number, result.digest)] * len(others)
        return result.items


@pytest.mark.parametrize(("name", "world"), [*((name, 2) for name in SHARDED), ("llama", 4)])
def test_tokens_do_not_depend_on_the_number_of_ranks(model: Model, name: str, world: int) -> None:
    path, draft = model(name), model("llama", 1)
    alone = drive(engine(path, draft), ASKS, Plan(draft=3))
    with group(path, draft, world) as wires:
        items = tiny.steps(ASKS, Plan(draft=3), Execute(wires))
    assert tiny.tokens(items, len(ASKS)) == alone


def test_a_model_without_a_plan_is_refused_by_name(model: Model) -> None:
    with folder() as path, ExitStack() as stack:
        ranks = [stack.enter_context(_rank(model("gpt2"), "", n, 2, path)) for n in range(2)]
        for rank in ranks:
            while (event := rank.event())["event"] == "progress":
                pass
            assert event["event"] == "fault"
            assert "GPT2LMHeadModel has no tensor-parallel plan" in event["text"]
            assert rank.process.wait(timeout=60) == 4
