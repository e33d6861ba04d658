"""What a bug report needs to say about this machine: versions, devices, memory, set variables.

Decides what is reported, never what is served, and never shows a secret. Imports no heavy library:
versions are read from the packages' metadata.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from router.cli.flags import set_variables

LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "triton", "aiohttp", "pydantic")
OTHER_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "LOG_FORMAT",
    "LOG_LEVEL",
    "NVIDIA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
)
"""Variables that have an effect without being flags, and hold no secret."""
CPU_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")
"""Instruction sets on which the speed of a model depends, as /proc/cpuinfo names them."""


@dataclass(frozen=True, slots=True)
class Environment:
    """A machine, and the variables of a process on it; sizes are bytes."""

    version: str
    python: str
    platform: str
    libraries: Mapping[str, str | None]
    """Versions; None for what is not installed."""
    cpu: str
    cores: int
    """Cores that this process may use."""
    cpu_features: Sequence[str]
    memory: int | None
    memory_available: int | None
    gpus: Sequence[str]
    """Name, memory and driver of each."""
    variables: Mapping[str, str]

    def lines(self) -> Iterator[str]:
        """The report as text."""
        yield f"tgi-laps {self.version}"
        yield f"Python {self.python} on {self.platform}"
        for name, version in self.libraries.items():
            yield f"{name} {version or 'is not installed'}"
        yield f"CPU {self.cpu}, {self.cores} cores, {' '.join(self.cpu_features) or 'no features'}"
        yield f"memory {_gigabytes(self.memory)}, {_gigabytes(self.memory_available)} available"
        yield from self.gpus or ["no NVIDIA GPU"]
        yield from (f"{name}={value}" for name, value in self.variables.items())


def print_report(
    arguments: Sequence[str], groups: Mapping[str, type], variables: Mapping[str, str]
) -> None:
    """Run the command `env` with `arguments`; exits with status 2 for unknown ones."""
    about = (
        "Print what a bug report needs: versions, devices, memory and the variables that set flags."
    )
    parser = argparse.ArgumentParser("text-generation-launcher env", description=about)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    as_json = parser.parse_args(arguments).json
    found = examine(groups, variables)
    print(json.dumps(asdict(found), indent=2) if as_json else "\n".join(found.lines()))


def examine(groups: Mapping[str, type], variables: Mapping[str, str]) -> Environment:
    """Look at this machine, and at those of `variables` that set flags of `groups`."""
    cpu, memory = _table("/proc/cpuinfo"), _table("/proc/meminfo")
    features = (cpu.get("flags") or cpu.get("Features", "")).split()
    others = {name: variables[name] for name in OTHER_VARIABLES if variables.get(name)}
    return Environment(
        version=_installed_version("tgi-laps") or "not installed as a package",
        python=platform.python_version(),
        platform=platform.platform(),
        libraries={name: _installed_version(name) for name in LIBRARIES},
        cpu=cpu.get("model name") or platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        cpu_features=[name for name in CPU_FEATURES if name in features],
        memory=_bytes(memory.get("MemTotal")),
        memory_available=_bytes(memory.get("MemAvailable")),
        gpus=_gpus(),
        variables=dict(sorted((set_variables(groups, variables) | others).items())),
    )


def _installed_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _table(path: str) -> dict[str, str]:
    """The lines `name: value` of a file in /proc up to the first empty one; empty without it."""
    file = Path(path)
    first = file.read_text().partition("\n\n")[0] if file.exists() else ""
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _bytes(text: str | None) -> int | None:
    """A size such as `16303428 kB`."""
    return int(text.split()[0]) << 10 if text else None


def _gigabytes(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 2**30:.1f} GB"


def _gpus() -> list[str]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = (program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    result = subprocess.run(query, capture_output=True, text=True, check=False, timeout=10)  # noqa: S603
    return result.stdout.strip().splitlines()
