"""The Grafana board and the alert rules ask for nothing that `/metrics` does not show."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from router.observability.metrics import Metrics
from router.scheduler.api import SchedulerStatus
from tests.support.paths import ROOT
from tests.support.serving import BOUNDS, CAPACITY

DEPLOY = ROOT / "deploy"
BOARD = json.loads((DEPLOY / "grafana" / "text-generation.json").read_text())
RULES = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text())
FAMILY = re.compile(r"(tgi_\w+)(?:\{([^}]*)\})?")
SERIES = re.compile(r"^(\w+)(?:\{(.*)\})? \S+$", re.MULTILINE)
TARGET = {"job", "instance", "namespace", "pod", "le"}
"""Labels that Prometheus itself gives a series, and that of a bucket."""


def expressions(panels: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Title and expression of every target, those in collapsed rows included."""
    for panel in panels:
        yield from expressions(panel.get("panels", []))
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


def alerts() -> list[tuple[str, str]]:
    """Name and expression of every rule about metrics of the server."""
    rules = [rule for group in RULES["groups"] for rule in group["rules"]]
    return [(rule["alert"], rule["expr"]) for rule in rules if "up{" not in rule["expr"]]


@pytest.fixture(scope="module")
def series() -> dict[str, set[str]]:
    """The labels of every series that the server shows, by its name."""
    metrics = Metrics(BOUNDS, CAPACITY)
    metrics.update_gauges(
        SchedulerStatus((0,), running=0, perceptible=0, free_pages=0, preemptions={})
    )
    found: dict[str, set[str]] = {}
    for name, labels in SERIES.findall(metrics.render().decode()):
        found.setdefault(name, set()).update(re.findall(r"(\w+)=", labels))
    return found


def test_every_panel_has_an_expression_and_a_place_of_its_own() -> None:
    panels = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
    assert all(panel["targets"] for panel in panels)
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(places)
    numbers = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize(("title", "expression"), [*expressions(BOARD["panels"]), *alerts()])
def test_every_expression_names_series_that_exist_with_their_labels(
    title: str, expression: str, series: dict[str, set[str]]
) -> None:
    names = [name for name, _ in FAMILY.findall(expression)]
    assert names
    labels = set().union(*(series[name] for name in names))
    grouped = re.findall(r"by \(([^)]*)\)", expression)
    asked = {label.strip() for group in grouped for label in group.split(",")}
    assert asked <= labels | TARGET


def test_the_rules_name_the_job_that_prometheus_scrapes() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    down = RULES["groups"][0]["rules"][0]["expr"]
    assert down == f'up{{job="{job["job_name"]}"}} == 0'
    assert all((DEPLOY / "prometheus" / name).exists() for name in config["rule_files"])


PUBLISHED = {
    *("tgi_request_count", "tgi_request_success", "tgi_request_failure", "tgi_queue_size"),
    *("tgi_request_duration_bucket", "tgi_request_queue_duration_bucket"),
    *("tgi_request_validation_duration_bucket", "tgi_request_inference_duration_bucket"),
    *("tgi_request_mean_time_per_token_duration_bucket", "tgi_request_input_length_bucket"),
    *("tgi_request_generated_tokens_bucket", "tgi_request_max_new_tokens_bucket"),
    *("tgi_request_skipped_tokens_sum", "tgi_request_skipped_tokens_count"),
    *("tgi_batch_current_size", "tgi_batch_current_max_tokens", "tgi_batch_next_size_bucket"),
    *("tgi_batch_inference_count", "tgi_batch_inference_success"),
    *("tgi_batch_inference_failure", "tgi_batch_inference_duration_bucket"),
    *("tgi_batch_forward_duration_bucket", "tgi_batch_decode_duration_bucket"),
    *("tgi_batch_filter_duration_bucket", "tgi_batch_concat_duration_bucket", "tgi_batch_concat"),
}
"""What boards made for TGI ask for."""


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_a_board_made_for_tgi_finds_its_series(name: str, series: dict[str, set[str]]) -> None:
    assert name in series
    by_method = re.match(r"tgi_batch_(inference|forward|decode|filter|concat_duration)", name)
    assert ("method" in series[name]) == bool(by_method)
