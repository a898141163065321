"""Real servers of the test session that are no database of tables: Redis, RabbitMQ."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy.lab import ios_xe
from deploy.lab import mongodb as lab_mongodb
from deploy.lab import rabbitmq as lab_rabbitmq
from deploy.lab import redis as lab_redis
from deploy.lab.emulated import EmulatedServer
from deploy.lab.mongodb import MongoServer
from deploy.lab.rabbitmq import RabbitmqServer
from deploy.lab.redis import RedisServer


@pytest.fixture(scope="session")
def target_redis() -> Iterator[RedisServer]:
    """A Redis server to rotate on, with a file of users."""
    with target_folder() as folder:
        server = lab_redis.start(folder)
        yield server
        server.stop()


@pytest.fixture(scope="session")
def target_mongodb() -> Iterator[MongoServer]:
    """A stand-in for MongoDB to rotate on."""
    with target_folder() as folder:
        server = lab_mongodb.start(folder)
        yield server
        server.stop()


@pytest.fixture(scope="session")
def ios_xe_device() -> Iterator[EmulatedServer]:
    """An emulated Cisco IOS XE to rotate on."""
    with target_folder() as folder:
        server = ios_xe.start(folder)
        yield server
        server.stop()


@pytest.fixture(scope="session")
def target_rabbitmq() -> Iterator[RabbitmqServer]:
    """A broker to rotate on, one for all tests: it takes seconds to start."""
    with target_folder() as folder:
        server = lab_rabbitmq.start(folder)
        yield server
        server.stop()


@contextmanager
def target_folder() -> Iterator[Path]:
    """Give a temporary folder that the servers' own users can pass through."""
    path = Path(tempfile.mkdtemp(prefix="pam-targets-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
