"""Every architecture of transformers is served or refused in one line, and none is served wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from shard.errors import StartupError
from shard.loading.compatibility import refuse_unsupported
from tests.support.tiny import engine

Model = Callable[..., str]
KINDS = {config.model_type: config for config in MODEL_FOR_CAUSAL_LM_MAPPING}
RECURRENT = (
    *("bailing_hybrid", "bamba", "falcon_h1", "falcon_mamba", "granitemoehybrid", "jamba"),
    *("kimi_linear", "mamba", "mamba2", "minimax", "nemotron_h", "olmo_hybrid", "qwen3_next"),
    *("qwen3_5_text", "recurrent_gemma", "rwkv", "xlstm", "zamba", "zamba2", "zaya", "lfm3"),
)
ANOTHER_ATTENTION = ("axk2", "deepseek_v32", "glm_moe_dsa")
"""A learned choice of keys."""
SERVED = (
    *("arcee", "cohere2", "ernie4_5", "exaone4", "gemma2", "gemma3_text", "glm4", "gpt_neox"),
    *("gpt_oss", "granite", "granitemoe", "llama", "mistral", "mixtral", "olmo2", "olmoe", "opt"),
    *("phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "seed_oss", "smollm3", "starcoder2"),
    *("bloom", "deepseek_v2", "deepseek_v3", "falcon", "gpt_neo", "gptj", "llama4_text", "mpt"),
    *("lfm2", "lfm2_moe", "stablelm"),
)


def verdict(kind: str) -> str | None:
    """The refusal of an architecture by what its configuration and class say; None if served."""
    try:
        config: Any = KINDS[kind]()
    except StrictDataclassError as error:
        pytest.skip(f"no default configuration: {error}")
    try:
        assert refuse_unsupported(config).isidentifier()
    except StartupError as fault:
        return f"{fault.code}: {fault.text}"
    return None


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_an_architecture_is_served_or_refused_in_one_line(kind: str) -> None:
    refusal = verdict(kind)
    assert refusal is None or (refusal.startswith("4: ") and "\n" not in refusal)


@pytest.mark.parametrize("kind", RECURRENT)
def test_a_recurrent_state_is_refused_by_name(kind: str) -> None:
    assert "recurrent state cannot be rolled back" in (verdict(kind) or "")


@pytest.mark.parametrize("kind", ANOTHER_ATTENTION)
def test_attention_that_is_not_by_position_is_refused_by_name(kind: str) -> None:
    assert "cannot be paged" in (verdict(kind) or "")


@pytest.mark.parametrize("kind", SERVED)
def test_attention_over_keys_by_position_is_served(kind: str) -> None:
    assert verdict(kind) is None


def test_an_encoder_decoder_is_refused_by_name() -> None:
    assert verdict("bart") == "4: BartForCausalLM is not supported: it is an encoder-decoder"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("bert", "its attention cannot be paged (it is not causal)"),
        ("diffllama", "its attention cannot be paged (layer 0 attends more than once)"),
        ("moshi", "do not report their sliding window"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_model_that_would_be_served_wrong_is_refused_when_it_is_loaded(
    model: Model, name: str, reason: str
) -> None:
    with pytest.raises(StartupError) as caught:
        engine(model(name))
    assert caught.value.code == 4
    assert "ForCausalLM is not supported" in caught.value.text or name == "bert"
    assert reason in caught.value.text
