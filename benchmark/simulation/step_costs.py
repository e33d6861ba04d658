"""What a Step costs: a few coefficients, fitted to measured Steps of an engine.

    seconds = step + row*rows + draft_step*longest draft + draft_row*drafts
            + context*tokens held by the rows + prefill_step*[some row prefills]
            + prefill*prompt tokens + catch_up*tokens that drafters missed + swap*tokens moved

`draft_row` is the cost of one draft token in the draft's forward and in the verification. The form
is TurboSpec's (arXiv 2406.14066) with drafting, prefill and copies added. All coefficients are
seconds and at least 0: no Step gets cheaper by doing more.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy

from router.scheduler.api import DeviceCapacity

RECORDED_COSTS = Path(__file__).resolve().parent.parent / "results" / "costs.json"
_ROWS = (1, 4, 16, 64)
"""Numbers of rows whose Steps a server measures at warm-up."""


class StepWork(NamedTuple):
    """How much one Step does; `drafts` over all rows, `longest_draft` of one row."""

    rows: int = 0
    """Rows that decode."""
    drafts: int = 0
    longest_draft: int = 0
    context: int = 0
    """Tokens whose KV the decoding rows read."""
    prefill: int = 0
    prefilling: int = 0
    """Rows that prefill."""
    missed_tokens: int = 0
    """Missed tokens that the draft model must process first."""
    moved: int = 0
    """Tokens whose KV is copied to the host or back."""


@dataclass(frozen=True, slots=True)
class StepCosts:
    """Coefficients in seconds; see the head of this file."""

    step: float
    row: float
    draft_step: float
    draft_row: float
    context: float
    prefill_step: float
    prefill: float
    catch_up: float = 0.0
    swap: float = 0.0

    def seconds(self, work: StepWork) -> float:
        """Return the device seconds of a Step."""
        rows, drafts, longest, context, prefill, prefilling, missed, moved = work
        total = self.step + self.prefill * prefill + self.swap * moved
        if rows:
            total += self.row * rows + self.context * context
            total += self.draft_step * longest + self.draft_row * drafts + self.catch_up * missed
        if prefilling:
            total += self.prefill_step
        return total

    def capacity(self, pages: int, rows: int, speculate: int = 5, **changes: Any) -> DeviceCapacity:
        """Return the capacity that a server with these costs reports; `changes` replace fields."""
        sizes = sorted({n for n in _ROWS if n < rows} | {rows})
        lengths = sorted({0, min(1, speculate), speculate})
        cells = tuple((n, g, self.seconds(StepWork(n, n * g, g))) for n in sizes for g in lengths)
        verify, longest = cells[0][2], cells[len(lengths) - 1][2]
        fields: dict[str, Any] = {
            "pages": pages,
            "page_size": 16,
            "max_rows": rows,
            "prefill_tokens": 512,
            "speculate": speculate,
            "draft_token_seconds": (longest - verify) / max(1, speculate),
            "verify_seconds": verify,
            "depth": 1,
            "costs": cells,
            "catch_up_seconds": self.catch_up,
            "swap_token_seconds": self.swap,
            "prefill_token_seconds": self.prefill,
        }
        return DeviceCapacity(**{**fields, **changes})


LLAMA_7B = StepCosts(
    step=0.0248,
    row=0.0002,
    draft_step=0.00195,
    draft_row=0.00025,
    context=2e-7,
    prefill_step=0.0,
    prefill=0.0002,
    catch_up=0.00002,
    swap=0.00004,
)
"""Assumed, not measured: the class of the paper's pair, about 25 ms a verification and 2 ms a draft
token, KV of 0.5 MiB a token over PCIe 4."""


def fit(samples: Sequence[tuple[StepWork, float]], **known: float) -> StepCosts:
    """Fit the coefficients that are not `known`, by least squares of relative errors.

    No coefficient is negative. `samples`: Steps and their seconds. Raises ValueError if there are
    fewer samples than coefficients.
    """
    names = [name for name in _COLUMNS if name not in known]
    if len(samples) < len(names):
        raise ValueError(f"{len(samples)} Steps do not determine {len(names)} coefficients")
    seconds = numpy.array([s for _, s in samples])
    for name, value in known.items():
        seconds = seconds - value * numpy.array([_COLUMNS[name](work) for work, _ in samples])
    weights = 1.0 / numpy.array([s for _, s in samples])
    while True:
        table = numpy.array([[_COLUMNS[name](work) for name in names] for work, _ in samples])
        solution = numpy.linalg.lstsq(table * weights[:, None], seconds * weights, rcond=None)[0]
        if solution.min() >= 0:
            break
        names.pop(int(solution.argmin()))  # a negative coefficient is noise
    fitted = dict(zip(names, map(float, solution), strict=True))
    blank = {field.name: 0.0 for field in fields(StepCosts)}
    return StepCosts(**{**blank, **fitted, **known})


def error(costs: StepCosts, samples: Sequence[tuple[StepWork, float]]) -> float:
    """Return the mean absolute relative error over `samples`."""
    return sum(abs(costs.seconds(work) / real - 1) for work, real in samples) / len(samples)


def save(path: Path, costs: StepCosts, about: dict[str, object]) -> None:
    """Write `costs` with a note on their origin."""
    path.write_text(json.dumps({"about": about, "costs": asdict(costs)}, indent=2) + "\n")


def load(path: Path = RECORDED_COSTS) -> StepCosts:
    """Read what `save` wrote. Raises OSError, and ValueError for anything else."""
    try:
        return StepCosts(**json.loads(path.read_text())["costs"])
    except (KeyError, TypeError) as fault:
        raise ValueError(f"{path} holds no costs: {fault!r}") from fault


_COLUMNS = {
    "step": lambda w: 1.0,
    "row": lambda w: float(w.rows),
    "draft_step": lambda w: float(w.longest_draft),
    "draft_row": lambda w: float(w.drafts),
    "context": lambda w: float(w.context),
    "prefill_step": lambda w: float(w.prefilling > 0),
    "prefill": lambda w: float(w.prefill),
    "catch_up": lambda w: float(w.missed_tokens),
    "swap": lambda w: float(w.moved),
}
