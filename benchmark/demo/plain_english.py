"""The statements of a function as numbered steps in plain English.

Rule: decides how one statement reads; must not know prompts or models. Nested blocks are
flattened behind the sentence that opens them, so the list has one number per statement.
"""

import ast
from collections.abc import Iterator

MAX_EXPRESSION = 60


def describe_steps(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """One sentence per statement of `function`, in source order, without its docstring."""
    return [f"{sentence}." for sentence in _sentences(function.body)]


def _sentences(body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        sentence = _sentence(node)
        if sentence:
            yield sentence
        yield from _nested(node)


def _nested(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return
    yield from _sentences(getattr(node, "body", []))
    for handler in getattr(node, "handlers", []):
        yield f"On {_text(handler.type) if handler.type else 'any error'}, recover"
        yield from _sentences(handler.body)
    if otherwise := getattr(node, "orelse", []):
        if not (len(otherwise) == 1 and isinstance(otherwise[0], ast.If)):
            yield "Otherwise, go on here"
        yield from _sentences(otherwise)
    if final := getattr(node, "finalbody", []):
        yield "In every case, finish up"
        yield from _sentences(final)


def _text(node: ast.AST) -> str:
    """The source of an expression on one line, cut to `MAX_EXPRESSION` characters."""
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= MAX_EXPRESSION else text[: MAX_EXPRESSION - 3].rstrip() + "..."


def _sentence(node: ast.stmt) -> str:
    """The sentence for the statement itself, empty for those that say nothing."""
    match node:
        case ast.Expr(value=ast.Constant()) | ast.Pass():
            return ""
        case ast.Expr(value=ast.Call() as call):
            return f"Call {_text(call)}"
        case ast.Assign(targets=targets, value=value):
            return f"Set {', '.join(map(_text, targets))} to {_text(value)}"
        case ast.AugAssign(target=target, value=value):
            return f"Update {_text(target)} with {_text(value)}"
        case ast.Return(value=value):
            return f"Return {_text(value)}" if value else "Return"
        case ast.Raise(exc=error):
            return f"Raise {_text(error)}" if error else "Raise the error again"
        case _:
            return _block_sentence(node)


def _block_sentence(node: ast.stmt) -> str:
    """The sentence that opens a block, or a statement's own text where no rule fits."""
    match node:
        case ast.If(test=test):
            return f"If {_text(test)}, go on here"
        case ast.For(target=target, iter=iterable):
            return f"For each {_text(target)} in {_text(iterable)}, repeat"
        case ast.While(test=test):
            return f"While {_text(test)}, repeat"
        case ast.With(items=items):
            return f"Hold {', '.join(map(_text, items))} for what follows"
        case ast.Try():
            return "Try what follows"
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return f"Define {name}"
        case _:
            return f"Do {_text(node)}"
