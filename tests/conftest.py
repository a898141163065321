"""Fixtures that every test may ask for."""

pytest_plugins = [
    "tests.support.broker",
    "tests.support.database",
    "tests.support.router",
    "tests.support.lab",
    "tests.support.promises",
    "tests.support.beat",
    "tests.support.lanes",
]
