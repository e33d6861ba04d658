from __future__ import annotations

import torch

from shard.rounds.vocabulary_map import VocabularyMap

CPU = torch.device("cpu")
MINUS = float("-inf")


def test_equal_vocabularies_are_passed_through() -> None:
    bridge, tokens, logits = VocabularyMap(3, 3, None, CPU), [0, 2], torch.rand(2, 3)
    assert bridge.to_draft(tokens) is tokens
    assert torch.equal(bridge.to_target(logits), logits)
    assert all(bridge.has_token(token) for token in range(3))


def test_a_draft_with_more_padding_is_cut() -> None:
    bridge = VocabularyMap(2, 4, None, CPU)
    assert bridge.to_target(torch.tensor([[1.0, 2.0, 3.0, 4.0]])).tolist() == [[1.0, 2.0]]
    assert bridge.to_draft([0, 1]) == [0, 1]


def test_a_draft_with_less_padding_never_proposes_what_it_lacks() -> None:
    bridge = VocabularyMap(4, 2, None, CPU)
    assert bridge.to_target(torch.tensor([[1.0, 2.0]])).tolist() == [[1.0, 2.0, MINUS, MINUS]]
    assert bridge.to_draft([1, 3]) == [1, 0]
    assert [bridge.has_token(token) for token in (1, 3)] == [True, False]


def test_logits_are_found_under_the_targets_ids() -> None:
    bridge = VocabularyMap(4, 3, {0: 2, 2: 0, 3: 7}, CPU)
    assert bridge.to_target(torch.tensor([[1.0, 2.0, 3.0]])).tolist() == [[3.0, MINUS, 1.0, MINUS]]
    assert bridge.to_draft([2, 0, 1]) == [0, 2, 0]
    assert [bridge.has_token(token) for token in range(4)] == [True, False, True, False]
