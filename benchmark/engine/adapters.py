"""What LoRA adapters cost a decoding Step, with dozens of them live.

Rule: decides which Steps are timed; must not know how adapters are computed. The model is that of
`small_steps`. Eight rows decode without an adapter, with the same one, and with eight different
ones, in turn. A figure is the median over rounds of the ratio of the fastest Steps, as speeds: 1
is the speed of the model alone. All adapters change every linear layer but the head.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from benchmark.engine.driver import cpu_config
from benchmark.engine.small_steps import model_path
from benchmark.figures import publish
from shard.engine import Engine, choose_threads, ready_without_costs
from shard.engine_parts import make_parts
from shard.warmup.step_costs import start_rows
from shard.wire.protocol import NewRow, RowWork, Sampling, Step

ROWS, LIVE_ADAPTERS = 8, 64
CASES = {
    "base": [0] * ROWS,
    "one": [1] * ROWS,
    "mixed": list(range(1, LIVE_ADAPTERS, LIVE_ADAPTERS // ROWS)),
}
"""Numbers of the adapters of the rows."""
_STEPS = 6
"""Steps of a round, of which the first may put adapters into slots."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `lora`."""
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--rank", type=int, default=8, help="rank of the adapters")


def run(args: argparse.Namespace) -> int:
    """Measure, print and write the figures. Return the exit status."""
    with TemporaryDirectory() as folder:
        figures = measure(Path(folder), args.rank, 3 if args.quick else 9)
    publish(figures, args.json, rows=ROWS, rank=args.rank, live=LIVE_ADAPTERS)
    return 0


def measure(folder: Path, rank: int, rounds: int) -> dict[str, float]:
    """Time `rounds` rounds with adapters of `rank`, which are written to `folder`."""
    model = model_path(folder)
    engine, adapter_bytes = _engine(model, _save_adapter(model, folder / "adapter", rank))
    seconds: dict[str, list[float]] = {name: [] for name in CASES}
    changes = []
    for _ in range(rounds):
        for name, adapters in CASES.items():
            first, *others = _step_seconds(engine, adapters)
            seconds[name].append(min(others))
            changes += [first - min(others)] if name == "mixed" else []
    return {
        "lora.base_seconds": statistics.median(seconds["base"]),
        "lora.one_over_base": _speed(seconds, "one"),
        "lora.mixed_over_base": _speed(seconds, "mixed"),
        "lora.first_step_extra_seconds": statistics.median(changes),
        "lora.mib_per_adapter": adapter_bytes / 2**20,
    }


def _speed(seconds: dict[str, list[float]], name: str) -> float:
    pairs = zip(seconds["base"], seconds[name], strict=True)
    return statistics.median(base / own for base, own in pairs)


def _engine(model: str, adapter: Path) -> tuple[Engine, int]:
    """An engine with `LIVE_ADAPTERS` adapters of the same values, and the bytes of one."""
    config = cpu_config(model, None, 0, 64, ROWS)
    paths = (str(adapter),) * LIVE_ADAPTERS
    config = replace(config, adapters=True, adapter_paths=paths)
    parts = make_parts(config, lambda text, percent: None)
    size = parts.adapters.get(1).nbytes if parts.adapters else 0
    return Engine(parts, ready_without_costs(parts), choose_threads(parts)), size


def _step_seconds(engine: Engine, adapters: Sequence[int]) -> list[float]:
    """Seconds of decoding Steps of one row for each of `adapters`."""
    new = [
        NewRow(id, (0,), 1, 2 + _STEPS, True, Sampling(), adapter=adapter)
        for id, adapter in enumerate(adapters)
    ]
    start_rows(engine, new)
    step = Step(0, (), (), (), tuple(RowWork(row.id, 0, 0) for row in new))
    seconds = [engine.execute(step).seconds for _ in range(_STEPS)]
    engine.execute(Step(0, tuple(row.id for row in new), (), (), ()))
    return seconds


def _save_adapter(model: str, folder: Path, rank: int) -> Path:
    """Save an adapter with random values for every linear layer but the head."""
    torch.manual_seed(3)
    with torch.device("meta"):
        module: Any = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model))
    head, tensors = module.get_output_embeddings(), {}
    for name, part in module.named_modules():
        if isinstance(part, torch.nn.Linear) and part is not head:
            start = f"base_model.model.{name}.lora_"
            tensors[f"{start}A.weight"] = torch.randn(rank, part.in_features) * 0.01
            tensors[f"{start}B.weight"] = torch.randn(part.out_features, rank) * 0.01
    folder.mkdir()
    fields = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": "all-linear"}
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder
