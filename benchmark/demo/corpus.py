"""The training text of the demo models: documents, their shares, and packed rows.

Rule: decides what the models read and how often; must not know the models. Every document
ends in the end token and is read from position 0, so a row never teaches one document to
follow another, and what the models write ends by itself.
"""

import ast
import io
import random
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from benchmark.demo.prompts import examples
from benchmark.demo.stdlib_source import MODULES, FunctionNode, module_source, module_tree
from benchmark.demo.tokenizer import END_ID

SHARES = {"raw": 0.08, "chat": 0.20, "code": 0.38, "long": 0.34}
IGNORED = -100
MAX_RAW = 1500
BUFFERED = 64


@dataclass(frozen=True)
class Document:
    """One text the models learn, without its end token, and the family it counts for."""

    family: str
    text: str


def documents() -> list[Document]:
    """The examples that are not held out, and the raw units of every module."""
    examples_to_learn = [
        Document(example.prompt.family, example.prompt.text + example.answer)
        for example in examples()
        if not example.held_out
    ]
    raw = dict.fromkeys(unit for module in MODULES for unit in raw_units(module))
    return examples_to_learn + [Document("raw", unit) for unit in raw]


def raw_units(module: str) -> Iterator[str]:
    """Functions, class heads, docstrings and comment paragraphs of 20 to `MAX_RAW` characters."""
    lines = module_source(module).splitlines()
    units = [*_comment_paragraphs(module)]
    for node in ast.walk(module_tree(module)):
        if isinstance(node, FunctionNode):
            units.append("\n".join(lines[node.lineno - 1 : node.end_lineno]))
        if isinstance(node, ast.ClassDef) and node.body:
            end = node.body[0].end_lineno if ast.get_docstring(node) else node.body[0].lineno - 1
            units.append("\n".join(lines[node.lineno - 1 : end]))
        if isinstance(node, FunctionNode | ast.ClassDef | ast.Module):
            units.append(ast.get_docstring(node) or "")
    return (unit for unit in units if 20 <= len(unit) <= MAX_RAW)


def _comment_paragraphs(module: str) -> Iterator[str]:
    """Runs of whole-line comments on consecutive lines."""
    paragraph: list[str] = []
    last = -1
    for token in tokenize.generate_tokens(io.StringIO(module_source(module)).readline):
        if token.type != tokenize.COMMENT or token.line.strip() != token.string:
            continue
        if token.start[0] != last + 1:
            yield "\n".join(paragraph)
            paragraph = []
        paragraph.append(token.string)
        last = token.start[0]
    yield "\n".join(paragraph)


@dataclass(frozen=True)
class PackedRows:
    """A batch of packed rows.

    `ids`, `positions` and `targets` are int64 [rows, length]; positions restart at 0 with each
    document, and a target is `IGNORED` where the next token belongs to another document.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor

    def mask(self) -> torch.Tensor:
        """bool [rows, 1, length, length]: which tokens (last axis) a token may look at."""
        document = (self.positions == 0).cumsum(1)
        same = document[:, None, :, None] == document[:, None, None, :]
        return same.tril()


def encode_texts(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """The token ids of each text, with the end token appended."""
    return [[*encoding.ids, END_ID] for encoding in tokenizer.encode_batch(texts)]


def document_stream(
    families: dict[str, list[list[int]]], shares: dict[str, float], seed: int
) -> Iterator[list[int]]:
    """An endless stream of documents, always of the family furthest below its share of tokens."""
    rng = random.Random(seed)  # noqa: S311 - no secret is drawn
    waiting: dict[str, list[list[int]]] = {family: [] for family in families}
    read = dict.fromkeys(families, 0.0)
    while True:
        family = min(read, key=lambda name: read[name] / shares[name])
        if not waiting[family]:
            waiting[family] = rng.sample(families[family], len(families[family]))
        document = waiting[family].pop()
        read[family] += len(document)
        yield document


def pack_batches(source: Iterator[list[int]], length: int, rows: int) -> Iterator[PackedRows]:
    """Batches of `rows` rows; documents longer than `length` tokens are skipped.

    Each place takes the longest buffered document that fits, so little of a row stays empty.
    """
    fitting = (document for document in source if len(document) <= length)
    buffer = [next(fitting) for _ in range(BUFFERED)]
    while True:
        yield _batch([_row(buffer, fitting, length) for _ in range(rows)], length)


def _row(buffer: list[list[int]], source: Iterator[list[int]], length: int) -> list[list[int]]:
    row: list[list[int]] = []
    left = length
    while True:
        fitting = [place for place, document in enumerate(buffer) if len(document) <= left]
        if not fitting:
            return row
        place = fitting[0] if not row else max(fitting, key=lambda at: len(buffer[at]))
        row.append(buffer.pop(place))
        buffer.append(next(source))
        left -= len(row[-1])


def _batch(rows: list[list[list[int]]], length: int) -> PackedRows:
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    positions = torch.zeros_like(ids)
    targets = torch.full_like(ids, IGNORED)
    for at, row in enumerate(rows):
        start = 0
        for document in row:
            end = start + len(document)
            ids[at, start:end] = torch.tensor(document)
            positions[at, start:end] = torch.arange(len(document))
            targets[at, start : end - 1] = ids[at, start + 1 : end]
            start = end
    return PackedRows(ids, positions, targets)
