"""Prompts of the demo models, in three families, with the answers the models learn.

Rule: decides the chat layout and the wording of every question; needs only the standard
library, because load tests draw prompts here without loading a model. A prompt is held out
by the hash of its text: the models never see that wording, though they do see the same
function asked for in other words, and a bare function head in the plain code.
"""

import ast
import functools
import hashlib
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from benchmark.demo.plain_english import describe_steps
from benchmark.demo.stdlib_source import MODULES, Definition, FunctionNode, definitions

FAMILIES = ("chat", "code", "long")
SYSTEM = "<|system|>You know the Python standard library."
HELD_OUT_EVERY = 10
MAX_ANSWER = 1500

CHAT_WORDINGS = ("What does {} do?", "Explain {}.", "What is {} for?")
CODE_WORDINGS = ("Write {}.", "Show the source of {}.", "How is {} written?")
STEP_WORDINGS = ("Describe {} step by step.", "What are the steps of {}?", "How does {} work?")
LIST_WORDINGS = ("List the public names of {}.", "What is in {}?", "Give an overview of {}.")


@dataclass(frozen=True)
class Prompt:
    """One full templated prompt, ready to be sent, and the family it belongs to."""

    family: str
    text: str


@dataclass(frozen=True)
class Example:
    """A prompt and the answer that follows it directly, without the end token."""

    prompt: Prompt
    answer: str

    @property
    def held_out(self) -> bool:
        """Whether training must not see this prompt."""
        return _hash(self.prompt.text) % HELD_OUT_EVERY == 0


def chat(question: str) -> str:
    """The chat layout of one user turn, equal to the tokenizer's template.

    One question in eight, by its hash, follows a system turn, so that the models know both.
    """
    system = SYSTEM if _hash(question) % 8 == 1 else ""
    return f"{system}<|user|>{question}<|assistant|>"


def prompts(family: str | None, count: int, seed: int, held_out: bool = False) -> list[Prompt]:
    """Draw `count` prompts of one family, or of all in rotation when `family` is None.

    With `held_out` only prompts that training never saw are drawn. A prompt comes back only
    after every other of its family has. Raises ValueError for an unknown family.
    """
    if family is None:
        drawn = [prompts(name, -(-count // 3), seed, held_out) for name in FAMILIES]
        return [prompt for turn in zip(*drawn, strict=True) for prompt in turn][:count]
    if family not in FAMILIES:
        raise ValueError(f"family {family!r} is not one of {', '.join(FAMILIES)}")
    pool = [e.prompt for e in examples() if e.prompt.family == family and e.held_out >= held_out]
    rng, out = random.Random(seed), list[Prompt]()  # noqa: S311 - no secret is drawn
    while len(out) < count:
        out += rng.sample(pool, min(len(pool), count - len(out)))
    return out


@functools.cache
def examples() -> tuple[Example, ...]:
    """Every example of every family whose answer is neither empty nor over `MAX_ANSWER`."""
    candidates = [*_listings()]
    for definition in definitions():
        candidates += [*_explanations(definition), *_sources(definition), *_steps(definition)]
    return tuple(example for example in candidates if 0 < len(example.answer) <= MAX_ANSWER)


def summary(doc: str) -> str:
    """The first two paragraphs of a docstring on one line, at most four sentences of them."""
    prose = " ".join(" ".join(doc.split("\n\n")[:2]).split(">>>")[0].split())
    return " ".join(re.split(r"(?<=[.!?]) ", prose)[:4])


def _wordings(family: str, wordings: tuple[str, ...], name: str, answer: str) -> Iterator[Example]:
    for wording in wordings:
        yield Example(Prompt(family, chat(wording.format(name))), answer)


def _explanations(definition: Definition) -> Iterator[Example]:
    """What the docstring says first, behind the call as one writes it."""
    if text := summary(definition.doc):
        arguments = getattr(definition.node, "args", None)
        call = f"({ast.unparse(arguments)})" if arguments else ""
        yield from _wordings(
            "chat", CHAT_WORDINGS, definition.name, f"{definition.name}{call}: {text}"
        )


def _sources(definition: Definition) -> Iterator[Example]:
    if not isinstance(definition.node, FunctionNode) or len(definition.source) < 80:
        return
    yield from _wordings("code", CODE_WORDINGS, definition.name, definition.source)
    head, body = split_body(definition)
    if definition.doc and body:
        yield Example(Prompt("code", head), body)


def split_body(definition: Definition) -> tuple[str, str]:
    """The source up to the end of the docstring, and the rest; the rest may be empty."""
    first = definition.node.body[0]
    cut = (first.end_lineno or first.lineno) - definition.node.lineno + 1
    lines = definition.source.splitlines(keepends=True)
    return "".join(lines[:cut]), "".join(lines[cut:])


def _steps(definition: Definition) -> Iterator[Example]:
    if not isinstance(definition.node, FunctionNode):
        return
    sentences = describe_steps(definition.node)
    if len(sentences) >= 8:
        yield from _wordings("long", STEP_WORDINGS, definition.name, _numbered(sentences))


def _listings() -> Iterator[Example]:
    """One listing per module, and one per class that has at least eight public methods."""
    owners = [*MODULES, *(d.name for d in definitions() if d.kind == "class")]
    for owner in owners:
        members = [d for d in definitions() if d.name.rpartition(".")[0] == owner]
        if len(members) >= 8:
            lines = [_list_entry(member) for member in members]
            yield from _wordings("long", LIST_WORDINGS, owner, _numbered(lines))


def _list_entry(member: Definition) -> str:
    name, text = member.name.rpartition(".")[2], summary(member.doc)
    first = re.split(r"(?<=[.!?]) ", text)[0]
    return f"{name}: {first}" if 0 < len(first) <= 80 else name


def _numbered(lines: list[str]) -> str:
    """The lines behind their numbers, as many whole ones as `MAX_ANSWER` admits."""
    out = ""
    for number, line in enumerate(lines, 1):
        if len(out) + len(line) + 6 > MAX_ANSWER:
            break
        out += f"{number}. {line}\n"
    return out.rstrip()


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
