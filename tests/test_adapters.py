"""Adapters under the real launcher, on two shards: from the command line, loaded at run time, and
after a restart of the shards. Each gives the tokens of the model that it is merged into.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any

import aiohttp
import pytest
from tokenizers import Tokenizer

from benchmark.server.watched_server import child_pids
from tests.support import tiny
from tests.support.adapters import merge, save_adapter
from tests.support.driver import RowSpec
from tests.support.paths import ROOT
from tests.support.processes import Processes
from tests.support.reference import generate_greedily

TARGET = str(ROOT / "shard" / "demo" / "target")
PROMPT, TOKENS = "def main(argv):\n    parser = ", 12
NAMES = ("first", "second", "later")
FIELDS: dict[str, Any] = {"r": 8, "lora_alpha": 4, "target_modules": "all-linear"}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str | None, list[int]]:
    """Greedy tokens by the name of the adapter; None is the model alone."""
    folder = tmp_path_factory.mktemp("merged")
    spec = RowSpec(
        tuple(Tokenizer.from_file(f"{TARGET}/tokenizer.json").encode(PROMPT).ids), TOKENS
    )
    models: dict[str | None, str] = {None: TARGET}
    for seed, name in enumerate(NAMES):
        adapter = save_adapter(TARGET, folder / name, seed, **FIELDS)
        models[name] = merge(TARGET, adapter, folder / f"{name}-merged", 4 / 8)
    tokens = {name: generate_greedily(path, spec) for name, path in models.items()}
    assert len({tuple(each) for each in tokens.values()}) == len(tokens)
    return tokens


async def post(url: str, path: str, body: dict[str, Any]) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession(url) as session,
        session.post(path, json=body) as response,
    ):
        return response.status, await response.text()


async def generate(url: str, name: str | None) -> list[int]:
    parameters = {"max_new_tokens": TOKENS, "details": True, "adapter_id": name}
    body = {"inputs": PROMPT, "parameters": parameters}
    async with (
        aiohttp.ClientSession(url) as session,
        session.post("/generate", json=body) as response,
    ):
        assert response.status == 200, await response.text()
        return [token["id"] for token in (await response.json())["details"]["tokens"]]


async def all_answers(url: str, *names: str | None) -> dict[str | None, list[int]]:
    """Two rounds of simultaneous requests, so that the second finds prefixes of the first."""
    for _ in range(2):
        answers = await asyncio.gather(*(generate(url, name) for name in names))
    return dict(zip(names, answers, strict=True))


async def test_adapters_are_exact_from_the_command_line_at_run_time_and_after_a_restart(
    processes: Processes, expected: dict[str | None, list[int]], tmp_path: Path
) -> None:
    for seed, name in enumerate(NAMES):
        save_adapter(TARGET, tmp_path / name, seed, **FIELDS)
    flags = [f"--lora-adapters={','.join(f'{name}={tmp_path / name}' for name in NAMES[:2])}"]
    flags += ["--lora-folder", str(tmp_path), "--num-shard", "2"]
    address = ("--hostname", "127.0.0.1", "-p", "0")
    server = processes.start(str(ROOT / "launcher.py"), *address, *flags)
    url = await asyncio.to_thread(server.url)
    async with asyncio.timeout(240):
        assert await all_answers(url, None, *NAMES[:2]) == {
            name: expected[name] for name in (None, *NAMES[:2])
        }
        load = {"lora_name": "later", "lora_path": "later"}
        assert (await post(url, "/v1/load_lora_adapter", load))[0] == 200
        assert (await post(url, "/v1/unload_lora_adapter", {"lora_name": "first"}))[0] == 200
        os.kill(child_pids(server.process.pid, "shard")[-1], SIGKILL)
        await asyncio.to_thread(server.line, "Shards restarted in ")
        names = (None, "second", "later")
        assert await all_answers(url, *names) == {name: expected[name] for name in names}
        body = {"inputs": PROMPT, "parameters": {"adapter_id": "first"}}
        assert (await post(url, "/generate", body))[0] == 422
    server.signal(SIGTERM)
    assert server.end() == 0


async def test_an_adapter_of_another_model_is_one_line_at_the_start(
    processes: Processes, model_of_another_shape: Path
) -> None:
    address = ("--hostname", "127.0.0.1", "-p", "0")
    flags = ("--lora-adapters", f"a={model_of_another_shape}")
    server = processes.start(str(ROOT / "launcher.py"), *address, *flags)
    line = await asyncio.to_thread(server.line, "Error: ")
    assert "that can be adapted" in line or "has shape" in line
    assert server.end() == 4


@pytest.fixture
def model_of_another_shape(tmp_path: Path) -> Path:
    """An adapter of a model with other sizes than the bundled one."""
    return save_adapter(tiny.save("llama", tmp_path), tmp_path / "adapter", 0)
