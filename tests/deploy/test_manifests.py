"""The chart, the compose file, the image and the unit say what the server needs.

`make test-deploy` validates them with other projects' tools.
"""

from __future__ import annotations

import configparser
import json
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

import launcher
from router.config import ServerConfig
from tests.support.chart import CHART, chart_values, render
from tests.support.paths import ROOT

DEPLOY = ROOT / "deploy"
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
GPU = chart_values(
    model="Qwen/Qwen3-8B",
    draftModel="Qwen/Qwen3-0.6B",
    shards=2,
    gpus=2,
    apiKeySecret="keys",
    hubTokenSecret="hub",
    modelClaim="models",
    args=["--max-total-tokens", "8192"],
    env=[{"name": "LOG_LEVEL", "value": "debug"}],
    nodeSelector={"gpu": "h200"},
    tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists"}],
    podLabels={"team": "a"},
    podAnnotations={"note": "b"},
)
ALL_VALUES = {"default": chart_values(), "gpu": GPU}
GRACE_SECONDS = ServerConfig().graceful_termination_timeout


def pod(values: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = render(values)["Deployment"]["spec"]["template"]["spec"]
    return spec


def container(values: dict[str, Any]) -> dict[str, Any]:
    (one,) = pod(values)["containers"]
    found: dict[str, Any] = one
    return found


@pytest.mark.parametrize("name", ALL_VALUES)
def test_the_launcher_accepts_the_flags_of_the_chart(name: str, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("secret\n")
    flags = [
        str(flag).replace("/secrets/keys", str(keys))
        for flag in container(ALL_VALUES[name])["args"]
    ]
    options = launcher.parse(flags, {})
    assert options.server.port == container(ALL_VALUES[name])["ports"][0]["containerPort"]
    assert options.server.graceful_termination_timeout == GRACE_SECONDS
    assert options.model.num_shard == ALL_VALUES[name]["shards"]


@pytest.mark.parametrize("name", ALL_VALUES)
def test_the_schema_accepts_the_values(name: str) -> None:
    jsonschema_rs.validator_for(SCHEMA).validate(ALL_VALUES[name])
    assert set(SCHEMA["properties"]) == set(ALL_VALUES[name]) | {"global"}


def test_the_schema_refuses_a_value_that_does_not_exist() -> None:
    assert not jsonschema_rs.validator_for(SCHEMA).is_valid(chart_values(replica=3))


@pytest.mark.parametrize("name", ALL_VALUES)
def test_kubernetes_waits_until_the_server_has_drained(name: str) -> None:
    sleep = container(ALL_VALUES[name])["lifecycle"]["preStop"]["exec"]["command"]
    assert sleep == ["sleep", "15"]
    assert pod(ALL_VALUES[name])["terminationGracePeriodSeconds"] > 15 + GRACE_SECONDS


def test_probes_ask_the_routes_that_need_no_key() -> None:
    probes = {kind: container(GPU)[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness")}
    assert {probe["path"] for probe in probes.values()} == {"/health/live"}
    ready = container(GPU)["readinessProbe"]["httpGet"]
    assert ready == {"path": "/health/ready", "port": "http"}


def test_a_replica_gets_as_many_gpus_as_it_is_given_and_none_by_default() -> None:
    assert container(GPU)["resources"]["limits"] == {"nvidia.com/gpu": 2}
    assert "limits" not in container(chart_values())["resources"]
    limited = chart_values(gpus=1, resources={"limits": {"memory": "64Gi"}})
    limits = {"nvidia.com/gpu": 1, "memory": "64Gi"}
    assert container(limited)["resources"] == {"limits": limits}


def test_service_and_budget_select_the_pods_of_the_deployment() -> None:
    objects = render(GPU, release="mine")
    labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
    selector = objects["Deployment"]["spec"]["selector"]["matchLabels"]
    assert objects["Service"]["spec"]["selector"] == selector
    assert objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == selector
    assert selector.items() <= labels.items()
    assert labels["team"] == "a"
    assert {one["metadata"]["name"] for one in objects.values()} == {"mine"}


def test_every_mounted_volume_exists_and_secrets_are_read_only() -> None:
    for values in ALL_VALUES.values():
        mounts = {mount["name"]: mount for mount in container(values)["volumeMounts"]}
        assert set(mounts) == {volume["name"] for volume in pod(values)["volumes"]}
    assert mounts["api-keys"]["readOnly"]


def test_the_plain_manifests_are_the_chart_with_its_default_values() -> None:
    text = (DEPLOY / "kubernetes" / "tgi-laps.yaml").read_text()
    objects = {one["kind"]: one for one in yaml.safe_load_all(text)}
    assert objects == render(chart_values())


def test_the_compose_file_stops_a_server_after_its_drain_and_mounts_what_exists() -> None:
    compose = yaml.safe_load((DEPLOY / "docker" / "compose.yaml").read_text())
    server = compose["services"]["server"]
    assert int(server["stop_grace_period"].removesuffix("s")) > GRACE_SECONDS
    assert set(server["environment"]) - {"HF_TOKEN"} <= launcher_variables()
    for service in compose["services"].values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (DEPLOY / "docker" / source).exists(), source


def launcher_variables() -> set[str]:
    known = launcher.parse([], {}).model.__dataclass_fields__
    return {name.upper() for name in known}


def test_the_image_copies_what_the_wheel_needs_past_the_ignore_file() -> None:
    text = (DEPLOY / "docker" / "Dockerfile").read_text()
    copied = [
        word for line in re.findall(r"^COPY (?!--)(.*) \S+$", text, re.M) for word in line.split()
    ]
    kept = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"
    }
    assert set(copied) == kept
    assert all((ROOT / name).exists() for name in copied)
    stages = {match[1] for match in re.finditer(r"^FROM \S+ AS (\w+)$", text, re.M)}
    for name in ("compose.yaml", "compose.cuda.yaml"):
        compose = yaml.safe_load((DEPLOY / "docker" / name).read_text())
        assert compose["services"]["server"]["build"]["target"] in stages


def test_the_unit_stops_after_the_drain_and_does_not_restart_what_cannot_start() -> None:
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(DEPLOY / "systemd" / "tgi-laps.service")
    service = unit["Service"]
    assert int(service["TimeoutStopSec"]) > GRACE_SECONDS
    assert service["RestartPreventExitStatus"].split() == ["2", "3", "4"]
    program, *flags = shlex.split(service["ExecStart"])
    assert program.endswith("/text-generation-launcher")
    assert flags[0] == "--config"
