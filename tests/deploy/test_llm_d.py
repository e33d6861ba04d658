"""What llm-d's router reads is at `/metrics`: three gauges, and the size of the cache."""

from __future__ import annotations

import re

import pytest
import yaml

from router.observability.metrics import Metrics
from router.scheduler.api import SchedulerStatus
from tests.support.chart import chart_values, render
from tests.support.paths import ROOT
from tests.support.serving import BOUNDS, CAPACITY

FOLDER = ROOT / "deploy" / "llm-d"
GAUGES = {
    "vllm:num_requests_waiting": 3.0,
    "vllm:num_requests_running": 2.0,
    "vllm:kv_cache_usage_perc": 0.5,
}
"""The router's defaults for vLLM, with the values of the status below."""


def series(names: str) -> dict[str, float]:
    """Each series, with its labels, of a server with waiting and running requests."""
    metrics = Metrics(BOUNDS, CAPACITY, names=names)
    free = CAPACITY.pages // 2
    status = SchedulerStatus((3,), running=2, perceptible=0, free_pages=free, preemptions={})
    metrics.update_gauges(status)
    lines = metrics.render().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


@pytest.mark.parametrize("names", ["vllm", "both"])
def test_the_gauges_that_the_router_expects_of_vllm_have_their_meaning(names: str) -> None:
    found = {name.partition("{")[0]: value for name, value in series(names).items()}
    assert GAUGES.items() <= found.items()


def test_the_size_of_the_cache_is_in_the_labels_of_the_info_gauge() -> None:
    (info,) = (name for name in series("both") if name.startswith("vllm:cache_config_info"))
    labels = dict(re.findall(r'(\w+)="([^"]*)"', info))
    assert int(labels["block_size"]) == CAPACITY.page_size
    assert int(labels["num_gpu_blocks"]) == CAPACITY.pages


def test_the_configuration_for_tgis_names_names_gauges_that_exist() -> None:
    config = yaml.safe_load((FOLDER / "plugins.yaml").read_text())
    (engine,) = config["plugins"][0]["parameters"]["engineConfigs"]
    specs = {value for key, value in engine.items() if key.endswith("Spec")}
    assert len(specs) == 3
    assert specs <= series("tgi").keys()


def test_every_plugin_that_a_profile_uses_is_declared() -> None:
    config = yaml.safe_load((FOLDER / "plugins.yaml").read_text())
    declared = {plugin["type"] for plugin in config["plugins"]}
    (profile,) = config["schedulingProfiles"]
    assert {plugin["pluginRef"] for plugin in profile["plugins"]} <= declared


def test_the_pool_selects_the_charts_pods_on_their_port() -> None:
    pool = yaml.safe_load((FOLDER / "pool.yaml").read_text())["spec"]
    template = render(chart_values())["Deployment"]["spec"]["template"]
    assert pool["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    (container,) = template["spec"]["containers"]
    assert pool["targetPorts"] == [{"number": container["ports"][0]["containerPort"]}]


def test_pods_are_labelled_as_vllm_only_if_they_have_its_metrics() -> None:
    def labels(names: str) -> dict[str, str]:
        values = chart_values(metricsNames=names)
        pod: dict[str, str] = render(values)["Deployment"]["spec"]["template"]["metadata"]["labels"]
        return pod

    assert labels("both")["llm-d.ai/engine-type"] == "vllm"
    assert "llm-d.ai/engine-type" not in labels("tgi")
