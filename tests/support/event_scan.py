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
    functions = [
        (path, function, _calls(function))
        for package in packages
        for path in sorted((root / package).rglob("*.py"))
        for function in _functions(ast.parse(path.read_text()))
    ]
    writers = {"record_event": 3}  # function → position of the event's name
    while True:
        found = dict(writers)
        for _, function, calls in functions:
            for argument in _events(calls, writers):
                if isinstance(argument, ast.Name) and argument.id in _parameters(function):
                    found[function.name] = _parameters(function).index(argument.id)
        if found == writers:
            break
        writers = found
    return tuple(
        (name, f"{path.relative_to(root)}:{argument.lineno}")
        for path, function, calls in functions
        for argument in _events(calls, writers)
        for name in _literals(function, argument)
    )


def _functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def _parameters(function: Function) -> list[str]:
    names = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)]
    return names[1:] if names[:1] in (["self"], ["cls"]) else names


def _calls(function: Function) -> list[tuple[str, list[ast.expr]]]:
    return [(_called(node.func), node.args) for node in ast.walk(function) if isinstance(node, ast.Call)]


def _events(calls: list[tuple[str, list[ast.expr]]], writers: dict[str, int]) -> Iterator[ast.expr]:
    for called, arguments in calls:
        place = writers.get(called)
        if place is not None and len(arguments) > place:
            yield arguments[place]


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
