"""What `env` reports about a machine and its variables."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass, field
from typing import Any

import pytest

from router.cli.environment_report import Environment, examine, print_report
from router.options import option


@dataclass(frozen=True)
class Flags:
    """A summary."""

    model_id: str = option("m", "model", aliases=("model-name",))
    api_key: str = option("", "key", secret=True)
    hostname: str = option("", "host", environment=None)
    otherwise: Any = field(default=None, metadata={"help": "text"})


GROUPS = {"flags": Flags}
VARIABLES = {
    "MODEL_NAME": "demo",
    "API_KEY": "hush",
    "HOSTNAME": "pod-0",
    "OTHERWISE": "",
    "HF_TOKEN": "hush",
    "OMP_NUM_THREADS": "2",
}


def test_only_variables_with_an_effect_are_shown_and_no_secret() -> None:
    shown = examine(GROUPS, VARIABLES).variables
    assert shown == {"API_KEY": "(secret)", "MODEL_NAME": "demo", "OMP_NUM_THREADS": "2"}


def test_as_json_the_report_has_a_key_for_each_fact(capsys: pytest.CaptureFixture[str]) -> None:
    print_report(["--json"], GROUPS, VARIABLES)
    report = json.loads(capsys.readouterr().out)
    assert set(report) == set(Environment.__dataclass_fields__)
    assert report["python"] == platform.python_version()
    assert report["memory"] > report["memory_available"] > 0
    assert report["cores"] >= 1
    assert "hush" not in str(report)


def test_what_is_missing_is_said() -> None:
    bare = Environment(
        version="1",
        python="3.11.0",
        platform="Linux",
        libraries={"torch": "2.11", "triton": None},
        cpu="x",
        cores=2,
        cpu_features=(),
        memory=3 << 30,
        memory_available=None,
        gpus=(),
        variables={"MODEL_ID": "m"},
    )
    assert list(bare.lines()) == [
        "tgi-laps 1",
        "Python 3.11.0 on Linux",
        "torch 2.11",
        "triton is not installed",
        "CPU x, 2 cores, no features",
        "memory 3.0 GB, unknown available",
        "no NVIDIA GPU",
        "MODEL_ID=m",
    ]


def test_other_arguments_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        print_report(["--jsn"], GROUPS, {})
    assert exit.value.code == 2
    assert "unrecognized arguments: --jsn" in capsys.readouterr().err
