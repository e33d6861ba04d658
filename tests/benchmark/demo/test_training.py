"""Tokenizer, losses, loop and bundle, on toy shapes and in seconds."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from benchmark.demo.corpus import document_stream, pack_batches
from benchmark.demo.distil import share_embedding
from benchmark.demo.losses import distillation_loss, next_token_loss
from benchmark.demo.models import draft_config, load_model, save_bundle, target_config, weight_count
from benchmark.demo.prompts import chat
from benchmark.demo.tokenizer import CHAT_TEMPLATE, END_ID, PAD_ID, train_tokenizer
from benchmark.demo.training import TrainingPlan, TrainingResult, learning_rate, train

TEXTS = ["def f(x):\n    return x + 1\n", "Naïve café costs 3 €", "a b c d e f"]
TINY = train_tokenizer(TEXTS, vocabulary=300)


def toy_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
        eos_token_id=END_ID,
        bos_token_id=None,
        pad_token_id=PAD_ID,
    )
    return LlamaForCausalLM(config)


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives_the_tokenizer(text: str) -> None:
    assert TINY.decode(TINY.encode(text).ids, skip_special_tokens=False) == text


def test_the_saved_tokenizer_loads_both_ways(tmp_path: Path) -> None:
    save_bundle(toy_model(), TINY, tmp_path)
    fast = AutoTokenizer.from_pretrained(tmp_path)
    plain = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert fast(TEXTS[1])["input_ids"] == plain.encode(TEXTS[1]).ids
    assert (fast.eos_token_id, fast.pad_token_id) == (END_ID, PAD_ID)
    turn = [{"role": "user", "content": "Explain 3."}]
    asked = fast.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    assert asked == "<|user|>Explain 3.<|assistant|>"
    assert chat("Explain 3.").endswith(asked)
    assert fast.chat_template == CHAT_TEMPLATE


def test_a_bundle_reads_back_with_its_bfloat16_weights(tmp_path: Path) -> None:
    model = toy_model()
    save_bundle(model, TINY, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    back = load_model(tmp_path)
    for name, weight in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], weight.to(torch.bfloat16).float())


def test_training_lowers_both_losses() -> None:
    model = toy_model()
    batches = pack_batches(
        document_stream({"only": [[9, 10, 11, 12, END_ID]]}, {"only": 1.0}, 0), 16, 2
    )
    before = next_token_loss(model, next(batches)).item()
    outcome = train(model, partial(next_token_loss, model), batches, TrainingPlan(0.01, peak=1e-2))
    assert outcome.loss < before
    draft = toy_model()
    before = distillation_loss(draft, model, next(batches)).item()
    loss = partial(distillation_loss, draft, model)
    assert train(draft, loss, batches, TrainingPlan(0.01, peak=1e-2)).loss < before


def test_a_model_does_not_diverge_from_itself() -> None:
    model = toy_model()
    rows = next(pack_batches(document_stream({"only": [[9, 10, END_ID]]}, {"only": 1.0}, 0), 8, 1))
    assert distillation_loss(model, model, rows).item() == pytest.approx(0.0, abs=1e-6)


def test_the_rate_warms_up_and_ends_at_zero() -> None:
    assert learning_rate(0.0, 1.0) == 0.0
    assert learning_rate(0.03, 1.0) == pytest.approx(1.0)
    assert learning_rate(0.5, 1.0) > learning_rate(0.9, 1.0) > 0.0
    assert learning_rate(1.0, 1.0) == pytest.approx(0.0)


def test_the_two_shapes_divide_by_two_and_have_their_sizes() -> None:
    for config, low, high in ((target_config(), 4e6, 6e6), (draft_config(), 3e5, 8e5)):
        assert config.num_attention_heads % 2 == (config.num_key_value_heads or 1) % 2 == 0
        assert low < weight_count(LlamaForCausalLM(config)) < high


def test_runs_one_after_the_other_add_up() -> None:
    assert TrainingResult(1, 20, 3.0, 9.0).followed_by(
        TrainingResult(2, 30, 4.0, 5.0)
    ) == TrainingResult(3, 50, 7.0, 5.0)


def test_the_draft_starts_with_the_geometry_of_the_targets_embedding() -> None:
    target, draft = toy_model(), toy_model()
    flat = torch.zeros(64, 16)
    flat[:, :3] = torch.randn(64, 3)
    target.model.embed_tokens.weight.data.copy_(flat)
    share_embedding(target, draft)
    shared = draft.model.embed_tokens.weight
    assert torch.allclose(shared @ shared.T, flat @ flat.T, atol=1e-4)
