"""The training text: shares, packing and the end of every document."""

from itertools import islice

import torch

from benchmark.demo.corpus import (
    IGNORED,
    document_stream,
    documents,
    encode_texts,
    pack_batches,
    raw_units,
)
from benchmark.demo.prompts import examples
from benchmark.demo.tokenizer import END_ID, train_tokenizer


def test_every_document_ends_in_the_end_token() -> None:
    texts = [document.text for document in documents()[:50]]
    tokenizer = train_tokenizer(texts, vocabulary=300)
    assert all(
        ids[-1] == END_ID and END_ID not in ids[:-1] for ids in encode_texts(tokenizer, texts)
    )


def test_held_out_prompts_are_not_in_the_corpus() -> None:
    held_out = tuple(
        e.prompt.text for e in examples() if e.held_out and "<|user|>" in e.prompt.text
    )
    assert held_out
    assert not any(document.text.startswith(held_out) for document in documents())


def test_raw_units_hold_code_docstrings_and_comments() -> None:
    units = list(raw_units("heapq"))
    assert any(unit.startswith("def heappush(") for unit in units)
    assert any(unit.startswith("Heap queue algorithm") for unit in units)
    assert any(unit.startswith("# ") and "\n# " in unit for unit in units)


def test_families_are_read_in_their_shares() -> None:
    families = {"short": [[1] * 3] * 5, "long": [[2] * 40] * 5}
    read = {1: 0, 2: 0}
    for document in islice(document_stream(families, {"short": 0.75, "long": 0.25}, seed=0), 3000):
        read[document[0]] += len(document)
    assert abs(read[1] / (read[1] + read[2]) - 0.75) < 0.02


def test_a_row_holds_whole_documents_that_do_not_see_each_other() -> None:
    source = document_stream(
        {"only": [[5, 6, END_ID], [7, 8, 9, END_ID], [4] * 99]}, {"only": 1.0}, seed=0
    )
    rows = next(pack_batches(source, length=8, rows=4))
    for ids, positions, targets in zip(rows.ids, rows.positions, rows.targets, strict=True):
        starts = [at for at in range(8) if positions[at] == 0 and ids[at] != END_ID]
        assert ids[starts].tolist() in ([5, 5], [7, 7], [5, 7], [7, 5])
        assert (targets[ids == END_ID] == IGNORED).all()
    second = int(rows.positions[0].tolist().index(0, 1))
    assert not rows.mask()[0, 0, second:, :second].any()
    assert torch.equal(rows.mask(), rows.mask().tril())
