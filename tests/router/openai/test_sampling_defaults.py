"""The values of `generation_config.json` that OpenAI's routes use where a client sends none."""

from __future__ import annotations

import json
import logging
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import launcher
from router.config import Limits, RouterConfig, ServerConfig
from router.openai.request_models import ChatRequest, CompletionRequest
from router.openai.sampling_defaults import FIELDS, SamplingDefaults
from router.openai.validation import LogprobOptions, validate
from router.scheduler.config import SchedulerConfig
from router.served_model import load_model
from shard.errors import StartupError
from shard.wire.protocol import Sampling
from tests.support.serving import BOUNDS, ScriptedDispatcher, serving
from tests.support.shared_workers import DEMO, VOCAB_SIZE

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Say"}]}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"prompt": "Say"},
    "/v1/responses": {"input": "Say"},
    "/invocations": CHAT,
    "/vertex": {"instances": [CHAT]},
}
NATIVE: dict[str, dict[str, Any]] = {
    "/": {"inputs": "Say"},
    "/generate": {"inputs": "Say"},
    "/generate_stream": {"inputs": "Say"},
    "/invocations": {"inputs": "Say"},
    "/vertex": {"instances": [{"inputs": "Say"}]},
}
QWEN = {
    "bos_token_id": 151643,
    "do_sample": True,
    "eos_token_id": [151645, 151643],
    "repetition_penalty": 1.05,
    "temperature": 0.7,
    "top_p": 0.8,
    "top_k": 20,
    "transformers_version": "4.45.2",
}


def f32(value: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def write(folder: Path, content: str | bytes) -> Path:
    (folder / "generation_config.json").write_bytes(
        content.encode() if isinstance(content, str) else content
    )
    return folder


async def sampling(path: str, body: dict[str, Any], config: dict[str, Any]) -> Sampling:
    """What the engine gets for `body` from a server whose model has `config`."""
    dispatcher = ScriptedDispatcher()
    async with serving(dispatcher, defaults=SamplingDefaults.from_config(config)) as server:
        answer = await server.post(path, body)
    assert answer.status == 200, answer.body
    return dispatcher.opened[0][0].sampling


@pytest.mark.parametrize("path", BODIES)
async def test_every_value_of_the_file_is_a_default_of_openais_routes(path: str) -> None:
    found = await sampling(path, BODIES[path], QWEN | {"min_p": 0.05})
    assert replace(found, seed=0) == Sampling(
        temperature=f32(0.7),
        top_p=f32(0.8),
        top_k=20,
        min_p=f32(0.05),
        repetition_penalty=f32(1.05),
        seed=0,
    )


@pytest.mark.parametrize("path", NATIVE)
async def test_native_routes_keep_tgis_defaults(path: str) -> None:
    found, plain = [await sampling(path, NATIVE[path], config) for config in (QWEN, {})]
    assert replace(found, seed=0) == replace(plain, seed=0)
    assert found.temperature in (0.0, 1.0)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("temperature", 1.5, 1.5),
        ("temperature", None, f32(0.7)),
        ("top_p", 1, 1.0),
        ("top_p", None, f32(0.8)),
        ("top_k", 0, 0),
        ("top_k", -1, 0),
        ("top_k", 3, 3),
        ("top_k", None, 20),
        ("repetition_penalty", 1, 1.0),
        ("repetition_penalty", None, f32(1.05)),
        ("min_p", 0, 0.0),
        ("min_p", None, f32(0.05)),
    ],
)
async def test_a_value_of_the_client_wins_and_null_is_none(
    name: str, value: float | None, expected: float
) -> None:
    body = {**CHAT, name: value}
    found = await sampling("/v1/chat/completions", body, QWEN | {"min_p": 0.05})
    assert getattr(found, name) == expected
    others = await sampling("/v1/chat/completions", CHAT, QWEN | {"min_p": 0.05})
    neutral: dict[str, Any] = {"seed": 0, name: 0}
    assert replace(found, **neutral) == replace(others, **neutral)


@pytest.mark.parametrize(
    ("config", "body", "temperature"),
    [
        ({}, {}, 1.0),
        ({"do_sample": True}, {}, 1.0),
        ({"do_sample": False}, {}, 0.0),
        ({"do_sample": False, "temperature": 0.6, "top_p": 0.9}, {}, 0.0),
        ({"do_sample": False}, {"temperature": 0.5}, 0.5),
        ({"do_sample": False}, {"temperature": 1}, 1.0),
        ({"do_sample": False}, {"top_p": 0.5}, 0.0),
        ({"do_sample": None, "temperature": 0.5}, {}, 0.5),
        ({"temperature": 0}, {}, 0.0),
        ({"temperature": 0.5}, {"temperature": 0}, 0.0),
        ({"temperature": 1e-40}, {}, 0.0),
    ],
)
async def test_greedy_decoding_is_a_default_too(
    config: dict[str, Any], body: dict[str, Any], temperature: float
) -> None:
    found = await sampling("/v1/chat/completions", CHAT | body, config)
    assert found.temperature == temperature
    if not temperature:
        assert found == Sampling()


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/v1/chat/completions", CHAT, (None, 7)),
        ("/v1/chat/completions", {**CHAT, "max_tokens": 9}, (9, 7)),
        ("/v1/chat/completions", {**CHAT, "max_completion_tokens": 9}, (9, 7)),
        ("/v1/chat/completions", {**CHAT, "max_tokens": None}, (None, 7)),
        ("/v1/responses", {"input": "Say"}, (None, 7)),
        ("/v1/responses", {"input": "Say", "max_output_tokens": 9}, (9, 7)),
        ("/v1/completions", {"prompt": "Say"}, (None, 16)),
        ("/generate", {"inputs": "Say"}, (None, None)),
    ],
)
async def test_the_limit_of_the_file_is_that_of_chats_and_responses_without_one(
    path: str, body: dict[str, Any], expected: tuple[int | None, int | None]
) -> None:
    dispatcher = ScriptedDispatcher()
    defaults = SamplingDefaults.from_config({"max_new_tokens": 7})
    async with serving(dispatcher, defaults=defaults) as server:
        assert (await server.post(path, body)).status == 200
    request = dispatcher.opened[0][0]
    assert (request.max_new_tokens, request.default_new_tokens) == expected


async def test_a_response_reports_the_values_that_were_used() -> None:
    async with serving(defaults=SamplingDefaults.from_config(QWEN)) as server:
        plain = (await server.post("/v1/responses", {"input": "Say"})).json()
        own = (await server.post("/v1/responses", {"input": "Say", "temperature": 0})).json()
    assert (plain["temperature"], plain["top_p"]) == (f32(0.7), f32(0.8))
    assert (own["temperature"], own["top_p"]) == (0.0, f32(0.8))


@pytest.mark.parametrize(
    ("name", "literal"),
    [
        ("temperature", "-0.1"),
        ("temperature", "NaN"),
        ("temperature", "Infinity"),
        ("temperature", "1e400"),
        ("temperature", "1" + "0" * 400),
        ("temperature", '"0.7"'),
        ("temperature", "true"),
        ("temperature", "[0.7]"),
        ("top_p", "0"),
        ("top_p", "1.1"),
        ("top_p", "{}"),
        ("top_k", "-2"),
        ("top_k", "50.5"),
        ("top_k", "4294967296"),
        ("min_p", "-0.01"),
        ("min_p", "2"),
        ("repetition_penalty", "0"),
        ("repetition_penalty", "-1"),
        ("max_new_tokens", "0"),
        ("max_new_tokens", "-5"),
        ("max_new_tokens", "20.5"),
        ("max_new_tokens", "true"),
        ("do_sample", '"false"'),
        ("do_sample", "0"),
    ],
)
def test_a_value_out_of_range_is_left_out_with_one_line(
    tmp_path: Path, name: str, literal: str
) -> None:
    others = {"temperature": 0.5, "top_p": 0.5, "top_k": 5, "max_new_tokens": 5}
    good = json.dumps({key: value for key, value in others.items() if key != name})
    defaults = SamplingDefaults.load(write(tmp_path, f'{good[:-1]}, "{name}": {literal}}}'))
    expected = SamplingDefaults.from_config(json.loads(good))
    assert replace(defaults, warning=None) == expected
    assert expected.warning is None
    assert defaults.warning is not None
    assert defaults.warning.startswith(
        f"generation_config.json: values that no request could have are ignored: `{name}` "
    )
    assert "\n" not in defaults.warning
    assert len(defaults.warning) < 150


def test_several_values_out_of_range_are_named_in_one_line() -> None:
    config = {"temperature": -1, "top_p": 3, "top_k": 7}
    defaults = SamplingDefaults.from_config(config)
    assert defaults.values == {"top_k": 7}
    assert defaults.warning is not None
    assert defaults.warning.endswith("ignored: `temperature` -1, `top_p` 3")


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "3", "null", '"text"', "[" * 100_000, b"\xff\xfe\x00", b"\x80"]
)
def test_a_damaged_file_gives_no_defaults_and_one_line(
    tmp_path: Path, content: str | bytes
) -> None:
    defaults = SamplingDefaults.load(write(tmp_path, content))
    assert replace(defaults, warning=None) == SamplingDefaults()
    assert defaults.warning is not None
    assert defaults.warning.startswith("generation_config.json has no defaults for requests: ")


@pytest.mark.parametrize(
    "content", [None, "{}", '{"eos_token_id": 2, "num_beams": 4, "typical_p": 0.2}']
)
def test_a_model_without_values_has_no_defaults_and_no_warning(
    tmp_path: Path, content: str | None
) -> None:
    if content is not None:
        write(tmp_path, content)
    assert SamplingDefaults.load(tmp_path) == SamplingDefaults()


_ANY = st.none() | st.booleans() | st.integers() | st.floats() | st.just("0.5")
_CONFIGS = st.fixed_dictionaries(
    {}, optional=dict.fromkeys((*FIELDS, "do_sample", "max_new_tokens", "eos_token_id"), _ANY)
)


@given(_CONFIGS)
def test_whatever_the_file_says_a_request_without_values_is_valid(config: dict[str, Any]) -> None:
    defaults = SamplingDefaults.from_config(config)
    for body in (ChatRequest(**CHAT), CompletionRequest(prompt="Say")):
        request = validate(defaults.fill(body), BOUNDS, VOCAB_SIZE, LogprobOptions())
        assert request.sampling.temperature >= 0
    for name in FIELDS:
        is_used, is_named = name in defaults.values, f"`{name}`" in (defaults.warning or "")
        assert (config.get(name) is None) or is_used or is_named


def config_of(folder: Path, **server: Any) -> RouterConfig:
    names: dict[str, Any] = {
        "model_path": str(folder),
        "model_id": "it",
        "revision": None,
        "draft_model_id": None,
    }
    server_config = ServerConfig(hostname="127.0.0.1", port=0, **server)
    return RouterConfig(
        Limits(), SchedulerConfig(), server_config, sockets=(), listen_fd=0, **names
    )


def test_a_served_model_has_its_defaults_unless_they_are_turned_off(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tokenizer.json").symlink_to(DEMO / "tokenizer.json")
    write(tmp_path, json.dumps(QWEN | {"top_p": 7}))
    with caplog.at_level(logging.INFO):
        defaults = load_model(config_of(tmp_path)).defaults
    assert defaults.values.keys() == {"temperature", "top_k", "repetition_penalty"}
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert warnings == [
        "generation_config.json: values that no request could have are ignored: `top_p` 7"
    ]
    assert "from generation_config.json: temperature 0.7, top_k 20" in caplog.text
    caplog.clear()
    assert load_model(config_of(tmp_path, generation_config="none")).defaults == SamplingDefaults()
    assert caplog.records == []


def test_the_flag_and_its_variable_choose_between_the_files_values_and_none() -> None:
    assert launcher.parse([], {}).server.generation_config == "auto"
    assert launcher.parse([], {"GENERATION_CONFIG": "none"}).server.generation_config == "none"
    flags = ["--generation-config", "auto"]
    assert launcher.parse(flags, {"GENERATION_CONFIG": "none"}).server.generation_config == "auto"
    with pytest.raises(StartupError, match="generation_config"):
        launcher.parse(["--generation-config", "some"], {})
