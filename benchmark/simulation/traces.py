"""A request as the simulator knows it: the length of its answer, and where the draft is right.

Output does not depend on how it is scheduled or drafted. So whether the draft's token at an output
position equals the target's, given the true text before it, is one bit of the text. A round at
position g with n drafts accepts the run of ones from g on, n at most, and emits one token more.
Hence a trace replays exactly under any draft length, batch and preemption.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

MAX_RUN = 255
RECORDED_TRACES = Path(__file__).resolve().parent.parent / "results" / "traces.json"


@dataclass(frozen=True, slots=True)
class Trace:
    """One request and its whole answer."""

    family: str
    prompt_tokens: int
    """Prompt tokens, at least 1."""
    max_new: int
    """Maximum number of answer tokens that the client allowed."""
    agrees: bytes
    """One byte per output token, the end token included: 1 where the draft is right, else 0."""

    def __post_init__(self) -> None:
        """Raises ValueError for a request that no server would accept."""
        if self.prompt_tokens < 1 or not 1 <= len(self.agrees) <= self.max_new:
            raise ValueError(
                f"no request: {self.prompt_tokens}, {len(self.agrees)}, {self.max_new}"
            )

    @property
    def length(self) -> int:
        """Output tokens."""
        return len(self.agrees)

    @property
    def ends(self) -> bool:
        """Whether the answer ends by itself, not by `max_new`."""
        return self.length < self.max_new

    @property
    def accepted(self) -> float:
        """Fraction of positions at which the draft is right."""
        return sum(self.agrees) / len(self.agrees)


class TracedAnswer:
    """The answer of a trace, for the device."""

    __slots__ = ("_runs", "length")

    def __init__(self, trace: Trace) -> None:
        self.length = trace.length
        self._runs = agreement_runs(trace.agrees)

    def count_accepted(self, position: int, draft: int) -> int:
        """Return how many of `draft` tokens drafted at output `position` are accepted."""
        return min(self._runs[position], draft)


def agreement_runs(agrees: bytes) -> bytes:
    """Return for each position how many positions from it on agree, at most `MAX_RUN`."""
    runs, run = bytearray(len(agrees)), 0
    for position in range(len(agrees) - 1, -1, -1):
        run = min(run + 1, MAX_RUN) if agrees[position] else 0
        runs[position] = run
    return bytes(runs)


def remaining_rounds(trace: Trace, draft: int) -> list[int]:
    """Return for each position the rounds of `draft` drafts from there to the end."""
    left = [0] * (trace.length + 1)
    runs = agreement_runs(trace.agrees)
    for position in range(trace.length - 1, -1, -1):
        step = min(runs[position], draft) + 1
        left[position] = 1 + left[min(position + step, trace.length)]
    return left


def save(path: Path, traces: Iterable[Trace], about: dict[str, object]) -> None:
    """Write `traces` with a note on their origin, one line per trace."""
    lines = [
        json.dumps([t.family, t.prompt_tokens, t.max_new, t.length, _pack(t.agrees)])
        for t in traces
    ]
    body = ",\n".join(lines)
    path.write_text(f'{{"about": {json.dumps(about)}, "traces": [\n{body}\n]}}\n')


def load(path: Path) -> list[Trace]:
    """Read what `save` wrote. Raises OSError, and ValueError for anything else."""
    try:
        rows: Sequence[Sequence[object]] = json.loads(path.read_text())["traces"]
        return [_unpack(*row) for row in rows]  # type: ignore[arg-type]
    except (KeyError, TypeError) as fault:
        raise ValueError(f"{path} holds no traces: {fault!r}") from fault


def _pack(agrees: bytes) -> str:
    """Encode four positions per hexadecimal digit, the first as the most significant bit."""
    bits = "".join(map(str, agrees))
    padded = bits + "0" * (-len(bits) % 8)
    return bytes(int(padded[at : at + 8], 2) for at in range(0, len(padded), 8)).hex()


def _unpack(family: str, prompt: int, max_new: int, length: int, packed: str) -> Trace:
    bits = "".join(f"{byte:08b}" for byte in bytes.fromhex(packed))[:length]
    if len(bits) < length:
        raise ValueError(f"{len(bits)} positions are recorded of {length}")
    return Trace(family, prompt, max_new, bytes(map(int, bits)))
