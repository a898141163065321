"""Fixtures that every test may ask for, and how they are collected."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

pytest_plugins = [
    "tests.support.broker",
    "tests.support.database",
    "tests.support.router",
    "tests.support.lab",
    "tests.support.promises",
    "tests.support.beat",
    "tests.support.lanes",
]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect without looking for garbage: thousands of tests are made, and all of them stay to the end."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()
