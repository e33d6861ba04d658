"""A check without weights and a start refuse the same models and limits, in the same line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import router.preflight
from router.backend import resolve_bounds
from router.child import RouterStartupError, build_config
from router.config import Limits, RouterConfig, ServerConfig
from router.scheduler.config import SchedulerConfig
from router.served_model import load_model
from shard import engine_parts
from shard.attention.kv_cache import PAGE_SIZE
from shard.config import ShardConfig
from shard.errors import StartupError
from shard.loading import checkpoint
from shard.loading.load import load
from shard.loading.partition import TensorParallelRank
from shard.preflight import model_check
from tests.support import tiny
from tests.support.families import byte_level
from tests.support.nightly import nightly
from tests.support.paths import DEMO, ROOT
from tests.support.processes import Processes

Model = Callable[..., str]
Edit = Callable[[Path], None]
WEIGHTS = "model.safetensors"


def edit_json(name: str, **changes: Any) -> Edit:
    """Change fields of a JSON file; None removes one."""

    def edit(folder: Path) -> None:
        path = folder / name
        value = json.loads(path.read_text()) if path.exists() else {}
        value = {**value, **changes}
        path.write_text(json.dumps({k: v for k, v in value.items() if v is not None}))

    return edit


def write(name: str, content: str) -> Edit:
    return lambda folder: void((folder / name).write_text(content))


def edit_tensors(edit: Callable[[dict[str, Tensor]], object]) -> Edit:
    def edit_file(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        edit(tensors)
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    return edit_file


def void(_: object) -> None:
    """Make a statement of an expression."""


def rename_weights(name: str) -> Edit:
    return lambda folder: void((folder / WEIGHTS).rename(folder / name))


def cut_weights(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


NORM, EMBEDDING = "model.norm.weight", "model.embed_tokens.weight"
FAULTS: dict[str, tuple[Edit, int, str]] = {
    "pickled weights": (rename_weights("pytorch_model.bin"), 4, "pickled weights are refused"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), 4, "holds no *.safetensors file"),
    "weights of another name": (rename_weights("weights.safetensors"), 4, f"neither {WEIGHTS}"),
    "truncated weights": (cut_weights, 4, "its header implies"),
    "empty weights": (write(WEIGHTS, ""), 4, "truncated within its header"),
    "a missing tensor": (edit_tensors(lambda t: t.pop(NORM)), 4, f"the weights lack `{NORM}`"),
    "a tensor of another shape": (
        edit_tensors(lambda t: t.update({NORM: torch.ones(3)})),
        4,
        f"`{NORM}` has shape [3], not [32]",
    ),
    "a tensor of integers": (
        edit_tensors(lambda t: t.update({NORM: torch.ones(32, dtype=torch.int64)})),
        4,
        f"`{NORM}` has dtype I64, not floating point",
    ),
    "a configuration of another size": (
        edit_json("config.json", intermediate_size=50),
        4,
        "has shape [48, 32], not [50, 32]",
    ),
    "a configuration of more layers": (
        edit_json("config.json", num_hidden_layers=4),
        4,
        "the weights lack `model.layers.3.",
    ),
    "an index of a missing file": (
        edit_json(f"{WEIGHTS}.index.json", weight_map={"w": "model-00002.safetensors"}),
        4,
        "model-00002.safetensors is missing",
    ),
    "an index without a map": (
        edit_json(f"{WEIGHTS}.index.json", weight_map=[1]),
        4,
        "`weight_map` must map tensors to files",
    ),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), 4, "is missing"),
    "a damaged configuration": (write("config.json", "{"), 4, "config.json is damaged"),
    "a configuration that is a list": (write("config.json", "[]"), 4, "must be a JSON object"),
    "no model type": (
        edit_json("config.json", model_type=None, architectures=None),
        4,
        "config.json cannot be read: ",
    ),
    "an unknown model type": (
        edit_json("config.json", model_type="nothing_known"),
        4,
        "config.json cannot be read: ",
    ),
    "a field of the wrong type": (
        edit_json("config.json", hidden_size="wide"),
        4,
        "config.json cannot be read: ",
    ),
    "code of its own": (
        edit_json("config.json", model_type="nothing_known", auto_map={"AutoConfig": "a.B"}),
        4,
        "requires the model's own code",
    ),
    "a vision model": (edit_json("config.json", model_type="vit"), 4, "not a causal language"),
    "an encoder-decoder": (edit_json("config.json", model_type="t5"), 4, "not a causal language"),
    "layers with a state": (
        edit_json("config.json", layer_types=["linear_attention"] * 3),
        4,
        "keeps a recurrent state",
    ),
    "layers of an unknown type": (
        edit_json("config.json", layer_types=["chunked_attention"] * 3),
        4,
        "its layers of type chunked_attention cannot be paged",
    ),
    "an unsupported quantization": (
        edit_json("config.json", quantization_config={"quant_method": "awq"}),
        4,
        "the format `awq` is not supported",
    ),
    "a tokenizer without a vocabulary": (write("tokenizer.json", "{}"), 4, "tokenizer: "),
    "a tokenizer that is a list": (write("tokenizer.json", "[]"), 4, "tokenizer: "),
    "a damaged tokenizer": (write("tokenizer.json", "{"), 4, "tokenizer: "),
    "a damaged template": (
        write("chat_template.jinja", "one\n{% if %}"),
        4,
        "tokenizer: chat template, line 2: ",
    ),
    "a damaged tokenizer configuration": (
        write("tokenizer_config.json", "[]"),
        4,
        "tokenizer: tokenizer_config.json is not a JSON object",
    ),
}


@pytest.fixture
def folder(model: Model, tmp_path: Path) -> Path:
    """A tiny model with a tokenizer."""
    path = copytree(model("llama"), tmp_path / "model")
    byte_level().save(str(path / "tokenizer.json"))
    return path


def router_config(path: Path | str, **limits: Any) -> RouterConfig:
    server = ServerConfig(hostname="127.0.0.1", port=0)
    names: dict[str, Any] = {
        "model_path": str(path),
        "model_id": "it",
        "revision": None,
        "draft_model_id": None,
    }
    return RouterConfig(
        Limits(**limits), SchedulerConfig(), server, sockets=(), listen_fd=0, **names
    )


Outcome = tuple[int, str] | None
"""Exit status and line of a refusal; None for a server that can start."""


def outcome(run: Callable[[], object]) -> Outcome:
    try:
        run()
    except StartupError as fault:
        return fault.code, fault.text
    except RouterStartupError as fault:
        return fault.code, str(fault)
    return None


def start(config: ShardConfig, router_config: RouterConfig) -> Outcome:
    """What a start makes of the models, as far as serving needs no socket."""

    def run() -> None:
        draft = Path(config.draft_path) if config.draft_path else None
        checkpoint.check(Path(config.model_path), draft, config.world)
        if config.world > 1:  # other ranks are needed to go on
            ranks = TensorParallelRank(config.rank, config.world)
            load(config.model_path, config.dtype, torch.device("cpu"), ranks, lambda *_: None)
        parts = engine_parts.make_parts(config, lambda *_: None)
        load_model(router_config)
        resolve_bounds(router_config.limits, parts.max_length)

    return outcome(run)


def check(config: ShardConfig, router_config: RouterConfig) -> Outcome:
    """What `--check` makes of them."""

    def run() -> None:
        draft = Path(config.draft_path) if config.draft_path else None
        checkpoint.check(Path(config.model_path), draft, config.world)
        found = model_check.check(config, ())
        router.preflight.check(router_config, found.max_length)

    return outcome(run)


def both(path: Path | str, draft: Path | str | None = None, **changes: Any) -> Outcome:
    """The outcome of a check, which is that of a start."""
    limits = {name: changes[name] for name in ("max_total_tokens",) if name in changes}
    config = tiny.config(str(path), str(draft) if draft else None, **changes)
    checked = check(config, router_config(path, **limits))
    assert start(config, router_config(path, **limits)) == checked
    torch.set_num_threads(1)
    return checked


def test_a_model_that_can_be_served_passes(folder: Path) -> None:
    assert both(folder) is None
    assert both(folder, folder) is None


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_target_gives_the_same_line_from_both(folder: Path, fault: str) -> None:
    edit, code, text = FAULTS[fault]
    edit(folder)
    found = both(folder)
    assert found is not None
    assert found[0] == code
    assert text in found[1]
    assert "\n" not in found[1]


DRAFT_FAULTS = [name for name, (_, _, text) in FAULTS.items() if not text.startswith("tokenizer: ")]


@pytest.mark.parametrize("fault", DRAFT_FAULTS)
def test_a_fault_of_a_draft_gives_the_same_line_from_both(
    folder: Path, tmp_path: Path, fault: str
) -> None:
    draft = copytree(folder, tmp_path / "draft")
    edit, code, text = FAULTS[fault]
    edit(draft)
    found = both(folder, draft)
    assert found is not None
    assert found[0] == code
    assert text in found[1]


@pytest.mark.parametrize("content", ["{}", "[]", "{", '{"model": {"vocab": [1]}}', '{"model": 3}'])
def test_a_damaged_tokenizer_of_either_model_is_refused_with_a_draft(
    folder: Path, tmp_path: Path, content: str
) -> None:
    draft = copytree(folder, tmp_path / "draft")
    (draft / "tokenizer.json").write_text(content)
    for pair in ((folder, draft), (draft, folder)):
        code, text = both(*pair) or (0, "")
        assert code == 4
        assert f"{draft / 'tokenizer.json'} is damaged: " in text


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(tiny.CONFIGS))
def test_an_architecture_has_one_verdict(model: Model, tmp_path: Path, name: str) -> None:
    path = copytree(model(name), tmp_path / name)
    byte_level().save(str(path / "tokenizer.json"))
    found = both(path)
    if name in tiny.LOADED:
        assert found is None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", tiny.LOADED)
def test_the_sizes_of_an_architecture_are_those_of_the_loaded_model(
    model: Model, name: str
) -> None:
    config = tiny.config(model(name), dtype="bfloat16")
    found = model_check.check(config, ())
    ranks = TensorParallelRank(0, 1)
    loaded = load(config.model_path, "bfloat16", torch.device("cpu"), ranks, lambda *_: None)
    assert found.kv_bytes_per_token == loaded.page_bytes // PAGE_SIZE
    assert found.weight_bytes == sum(each.nbytes for each in loaded.module.parameters())
    assert found.max_length == loaded.max_length


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["mamba", "bert", "diffllama", "moshi"])
def test_an_architecture_is_refused_before_its_weights_are_downloaded(
    model: Model, tmp_path: Path, name: str
) -> None:
    path = copytree(model(name), tmp_path / name)
    whole = outcome(lambda: model_check.check(tiny.config(str(path)), ()))
    (path / WEIGHTS).unlink()
    assert outcome(lambda: model_check.check(tiny.config(str(path)), (path,))) == whole
    assert whole is not None
    assert whole[0] == 4
    assert "is not supported: " in whole[1]


@pytest.mark.parametrize(
    ("name", "world", "code", "text"),
    [
        ("llama", 3, 2, "must divide the model's 4 attention heads; valid choices: 1, 2, 4"),
        ("gpt2", 2, 4, "GPT2LMHeadModel has no tensor-parallel plan"),
        ("gpt2", 3, 2, "must divide the model's 4 attention heads"),
    ],
)
def test_what_cannot_be_divided_by_the_shards_is_refused_by_both(
    model: Model, tmp_path: Path, name: str, world: int, code: int, text: str
) -> None:
    path = copytree(model(name), tmp_path / "model")
    byte_level().save(str(path / "tokenizer.json"))
    found = both(path, world=world)
    assert found is not None
    assert found[0] == code
    assert text in found[1]


def test_a_width_that_the_shards_do_not_divide_is_refused_by_both(folder: Path) -> None:
    edit_json("config.json", intermediate_size=49)(folder)
    code, text = both(folder, world=2) or (0, "")
    assert (code, "49 features cannot be divided by 2 shards" in text) == (2, True)


def test_quantized_weights_cannot_be_divided_for_either(folder: Path) -> None:
    edit_json("config.json", quantization_config={"quant_method": "mxfp4"})(folder)
    code, text = both(folder, world=2) or (0, "")
    assert (code, "`mxfp4` weights cannot be sharded" in text) == (2, True)


@pytest.mark.parametrize(
    ("name", "changes", "code", "text"),
    [
        ("llama", {"max_total_tokens": 129}, 2, "`max_total_tokens`(129) must be <= 128"),
        ("phi3-longrope", {"max_total_tokens": 49}, 2, "`max_total_tokens`(49) must be <= 48"),
        ("llama", {"max_batch_total_tokens": 8}, 6, "the KV cache holds 0 tokens"),
        (
            "llama",
            {"max_total_tokens": 120, "max_batch_total_tokens": 64},
            6,
            "the KV cache holds 64 tokens",
        ),
    ],
)
def test_limits_that_the_model_cannot_meet_are_refused_by_both(
    model: Model, tmp_path: Path, name: str, changes: dict[str, Any], code: int, text: str
) -> None:
    path = copytree(model(name), tmp_path / "model")
    byte_level().save(str(path / "tokenizer.json"))
    found = both(path, **changes)
    assert found is not None
    assert found[0] == code
    assert text in found[1]


def test_a_model_that_is_not_downloaded_yet_is_checked_without_its_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    config = tiny.config(str(folder))
    checkpoint.check(folder, None, 1, [folder])
    found = model_check.check(config, [folder])
    assert found.text == "LlamaForCausalLM in float32"
    assert found.max_length == 128
    with pytest.raises(StartupError, match=r"holds no \*.safetensors"):
        checkpoint.check(folder, None, 1)


def test_sizes_are_those_of_one_rank(model: Model) -> None:
    llama = model("llama")
    alone = model_check.check(tiny.config(llama), ())
    stored = sum(tensor.nbytes for tensor in load_file(Path(llama, WEIGHTS)).values())
    assert alone.weight_bytes == stored
    assert alone.kv_bytes_per_token == 3 * 2 * 2 * 8 * 4
    half = model_check.check(tiny.config(llama, dtype="bfloat16"), ())
    assert (half.weight_bytes, half.kv_bytes_per_token) == (stored // 2, 3 * 2 * 2 * 8 * 2)
    parted = model_check.check(tiny.config(llama, world=2), ())
    assert stored // 2 < parted.weight_bytes < stored
    assert parted.kv_bytes_per_token == 3 * 2 * 1 * 8 * 4
    pair = model_check.check(tiny.config(llama, llama, world=4), ())
    assert pair.kv_bytes_per_token == 3 * 2 * (1 + 2) * 8 * 4


def test_the_router_checks_what_the_launcher_sends(folder: Path) -> None:
    sent = json.loads(json.dumps(asdict(router_config(folder))))
    assert router.preflight.check(build_config(sent), 128) == (
        "263 tokens, no chat template, requests of up to 128 tokens"
    )


@pytest.mark.parametrize(
    "fault",
    ["pickled weights", nightly("a missing tensor"), nightly("an unsupported quantization")],
)
def test_the_command_prints_the_same_last_line_and_status_for_both(
    processes: Processes, tmp_path: Path, fault: str
) -> None:
    folder = copytree(DEMO / "target", tmp_path / "model")
    edit, code, text = FAULTS[fault]
    edit(folder)
    flags = [str(ROOT / "launcher.py"), "--model-id", str(folder), "-p", "0"]
    checked = processes.start(*flags, "--check")
    started = processes.start(*flags, "--hostname", "127.0.0.1")
    assert (checked.end(), started.end()) == (code, code)
    assert text in checked.lines[-1]
    assert checked.lines[-1] == started.lines[-1]
