"""The training loop of the demo models, bounded by wall time.

Rule: decides how a loss is minimised within a number of minutes; must not know which model or
which loss it is. The learning rate follows the elapsed share of the time, not a count of
steps, so every run ends fully annealed however fast the machine is.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from benchmark.demo.corpus import PackedRows

WARM_UP = 0.03
REPORT_SECONDS = 10.0


@dataclass(frozen=True)
class TrainingPlan:
    """How long and how hard to train: minutes of wall time, peak learning rate, weight decay."""

    minutes: float
    peak: float
    decay: float = 0.05


@dataclass(frozen=True)
class TrainingResult:
    """What a run did: steps, tokens read, seconds, and the mean loss of its last tenth, in nats."""

    steps: int
    tokens: int
    seconds: float
    loss: float

    def followed_by(self, later: "TrainingResult") -> "TrainingResult":
        """The two runs as one, with the loss of the later."""
        return TrainingResult(
            self.steps + later.steps,
            self.tokens + later.tokens,
            self.seconds + later.seconds,
            later.loss,
        )


def learning_rate(share: float, peak: float) -> float:
    """Linear warm-up to `peak`, then a cosine down to zero at `share` = 1."""
    if share < WARM_UP:
        return peak * share / WARM_UP
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, (share - WARM_UP) / (1 - WARM_UP))))


def train(
    model: torch.nn.Module,
    loss_of: Callable[[PackedRows], torch.Tensor],
    batches: Iterator[PackedRows],
    plan: TrainingPlan,
    checkpoint: Callable[[], None] = lambda: None,
    checkpoint_seconds: float = 240.0,
) -> TrainingResult:
    """Minimise `loss_of` (mean nats per target) over `batches` until the minutes are spent.

    Prints a line about every ten seconds and calls `checkpoint` every `every` seconds.
    """
    optimizer = _optimizer(model, plan)
    begun = reported = saved = time.monotonic()
    losses: list[float] = []
    tokens = 0
    while (share := (time.monotonic() - begun) / (60 * plan.minutes)) < 1:
        batch = next(batches)
        losses.append(_step(model, optimizer, loss_of(batch), learning_rate(share, plan.peak)))
        tokens += batch.ids.numel()
        now = time.monotonic()
        if now - reported > REPORT_SECONDS:
            _report(losses, tokens, now - begun, plan)
            reported = now
        if now - saved > checkpoint_seconds:
            checkpoint()
            saved = now
    last = losses[-max(1, len(losses) // 10) :]
    return TrainingResult(len(losses), tokens, time.monotonic() - begun, sum(last) / len(last))


def _optimizer(model: torch.nn.Module, plan: TrainingPlan) -> torch.optim.Optimizer:
    """AdamW that decays matrices only."""
    matrices = [weight for weight in model.parameters() if weight.dim() > 1]
    others = [weight for weight in model.parameters() if weight.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": plan.decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=plan.peak, betas=(0.9, 0.95), fused=True)


def _step(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, loss: torch.Tensor, rate: float
) -> float:
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def _report(losses: list[float], tokens: int, seconds: float, plan: TrainingPlan) -> None:
    recent = losses[-20:]
    print(
        f"step {len(losses)}  loss {sum(recent) / len(recent):.3f}  "
        f"{tokens / seconds:.0f} tokens/s  {plan.minutes - seconds / 60:.1f} min left",
        flush=True,
    )
