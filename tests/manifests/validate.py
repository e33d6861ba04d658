"""Validate chart, board and rules with kubernetes-validate and promql-parser: `make test-deploy`.

Runs in an environment of its own, with nothing of the product. The chart is rendered by
`tests.support.chart` and compared with Kubernetes' schemas, strictly; every expression of the
board and of the rules is parsed as PromQL. Exits with status 1 if anything is refused.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import kubernetes_validate
import promql_parser
import yaml

from tests.support.chart import chart_values, render
from tests.support.paths import ROOT

DEPLOY = ROOT / "deploy"
GPU = {
    "gpus": 2,
    "apiKeySecret": "keys",
    "hubTokenSecret": "hub",
    "modelClaim": "models",
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
}
VERSION = kubernetes_validate.latest_version()


def manifests() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of the chart, with the default values and with GPUs."""
    for name, values in (("default", chart_values()), ("gpu", chart_values(**GPU))):
        for kind, one in render(values).items():
            yield f"{kind} ({name} values)", one


def expressions() -> Iterator[tuple[str, str]]:
    """Yield the expressions of the board, with its variables replaced, and of the rules."""
    board = (DEPLOY / "grafana" / "text-generation.json").read_text()
    for text in re.findall(r'"expr": ("(?:[^"\\]|\\.)*")', board):
        yield "board", re.sub(r"\$__\w+", "5m", json.loads(text))
    rules = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text())
    for group in rules["groups"]:
        yield from ((rule["alert"], rule["expr"]) for rule in group["rules"])


def refused(name: str, check: Callable[[], object]) -> bool:
    """Run a check and print its verdict."""
    try:
        check()
    except (ValueError, kubernetes_validate.ValidationError) as error:
        print(f"{name}: {error}")
        return True
    return False


def main() -> int:
    objects, texts = list(manifests()), list(expressions())
    of_kubernetes = partial(kubernetes_validate.validate, desired_version=VERSION, strict=True)
    bad = [refused(name, partial(of_kubernetes, one)) for name, one in objects]
    bad += [refused(name, partial(promql_parser.parse, text)) for name, text in texts]
    print(f"{len(objects)} objects, {len(texts)} expressions, {sum(bad)} refused")
    return 1 if any(bad) else 0


if __name__ == "__main__":
    sys.exit(main())
