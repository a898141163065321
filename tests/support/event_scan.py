"""Which events the source code writes, read from the code itself."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

__all__ = ["emitted"]

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def emitted(root: Path, packages: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Return every event name that is written as a literal, with where it stands.

    Followed are ``record_event``, every function that hands one of its own parameters on to it, literals behind a
    condition, and names assigned in the same function. What is computed otherwise is refused at run time if unknown.
    """
    trees = {
        path: ast.parse(path.read_text()) for package in packages for path in sorted((root / package).rglob("*.py"))
    }
    writers = {"record_event": 3}  # function → position of the event's name
    while True:
        found = dict(writers)
        for tree in trees.values():
            for function in _functions(tree):
                for argument in _events(function, writers):
                    if isinstance(argument, ast.Name) and argument.id in _parameters(function):
                        found[function.name] = _parameters(function).index(argument.id)
        if found == writers:
            break
        writers = found
    return tuple(
        (name, f"{path.relative_to(root)}:{argument.lineno}")
        for path, tree in trees.items()
        for function in _functions(tree)
        for argument in _events(function, writers)
        for name in _literals(function, argument)
    )


def _functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def _parameters(function: Function) -> list[str]:
    names = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)]
    return names[1:] if names[:1] in (["self"], ["cls"]) else names


def _events(function: Function, writers: dict[str, int]) -> Iterator[ast.expr]:
    for node in ast.walk(function):
        if isinstance(node, ast.Call):
            place = writers.get(_called(node.func))
            if place is not None and len(node.args) > place:
                yield node.args[place]


def _called(function: ast.expr) -> str:
    if isinstance(function, ast.Name):
        return function.id
    return function.attr if isinstance(function, ast.Attribute) else ""


def _literals(function: Function, expression: ast.expr) -> Iterator[str]:
    if isinstance(expression, ast.Constant) and isinstance(expression.value, str):
        yield expression.value
    elif isinstance(expression, ast.IfExp):
        yield from _literals(function, expression.body)
        yield from _literals(function, expression.orelse)
    elif isinstance(expression, ast.Name):
        for node in ast.walk(function):
            if isinstance(node, ast.Assign) and any(
                isinstance(target, ast.Name) and target.id == expression.id for target in node.targets
            ):
                yield from _literals(function, node.value)
