from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import InvalidTaskError
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from kombu import Connection
from kombu.message import Message

from pam_jobs.clock import VirtualClock
from pam_jobs.jobs.signing import HEADER, MessageRefused, sign
from workers.request import MessageGuard, request_class

pytestmark = pytest.mark.unit

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
QUEUE = "gateway.here"
KEY = Ed25519PrivateKey.generate()
PUBLIC = KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(NOON)


@pytest.fixture
def guard(clock: VirtualClock) -> MessageGuard:
    return MessageGuard(PUBLIC, QUEUE, clock)


def signed(
    *, name: str = "pam.rotate", message_id: str = "job.1", queue: str = QUEUE, args: list[str] | None = None,
    seconds: int = 3600,
) -> dict[str, Any]:  # fmt: skip
    expires = int((NOON + timedelta(seconds=seconds)).timestamp())
    return {
        HEADER: sign(
            KEY, name=name, message_id=message_id, queue=queue, args=args or ["job"], kwargs={}, expires=expires
        )
    }


def admit(guard: MessageGuard, headers: dict[str, Any], **changes: Any) -> None:
    members: dict[str, Any] = {
        "name": "pam.rotate", "message_id": "job.1", "headers": headers, "args": ["job"], "kwargs": {},
        "embed": EMBED, **changes,
    }  # fmt: skip
    guard.admit(**members)


def refusal(guard: MessageGuard, headers: dict[str, Any], **changes: Any) -> str:
    with pytest.raises(MessageRefused) as caught:
        admit(guard, headers, **changes)
    return caught.value.reason


def test_what_the_router_signed_for_this_queue_is_admitted(guard: MessageGuard) -> None:
    admit(guard, signed())


@pytest.mark.parametrize(
    ("headers", "changes", "reason"),
    [
        ({}, {}, "unsigned"),
        (signed(), {"name": "pam.discover"}, "bad_signature"),  # another task by the same message
        (signed(), {"args": ["other"]}, "bad_signature"),
        (signed(), {"kwargs": {"x": 1}}, "bad_signature"),
        (signed(), {"message_id": "job.2"}, "bad_signature"),
        (signed(queue="gateway.there"), {}, "bad_signature"),  # addressed to another gateway
        (signed(seconds=-1), {}, "expired"),
        (signed(), {"embed": {**EMBED, "callbacks": [{"task": "pam.rotate"}]}}, "extended"),
        ({**signed(), "eta": "2030-01-01"}, {}, "extended"),
        ({HEADER: "text"}, {}, "malformed"),
    ],
)
def test_anything_else_is_refused(
    guard: MessageGuard, headers: dict[str, Any], changes: dict[str, Any], reason: str
) -> None:
    assert refusal(guard, headers, **changes) == reason


def test_a_key_of_somebody_else_is_refused(clock: VirtualClock) -> None:
    other = Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    assert refusal(MessageGuard(other, QUEUE, clock), signed()) == "unknown_key"


def test_a_replay_is_refused(guard: MessageGuard) -> None:
    admit(guard, signed())
    assert refusal(guard, signed()) == "replayed"


def test_a_message_handed_back_before_it_began_comes_again(guard: MessageGuard) -> None:
    admit(guard, signed())
    admit(guard, signed(), is_redelivered=True)
    guard.began("job.1")
    assert refusal(guard, signed(), is_redelivered=True) == "replayed"


def test_what_is_remembered_is_bounded(clock: VirtualClock) -> None:
    guard = MessageGuard(PUBLIC, QUEUE, clock, remembered=10)
    for number in range(50):
        admit(guard, signed(message_id=f"m{number}"), message_id=f"m{number}")
    assert len(guard._seen) == 10
    clock.advance(timedelta(hours=2))
    assert refusal(guard, signed(message_id="m49"), message_id="m49") == "expired"


def message(headers: dict[str, Any], body: Any) -> Message:
    with Connection("memory://") as connection:
        return Message(
            body=json.dumps(body), channel=connection.channel(), content_type="application/json",
            content_encoding="utf-8", headers={"lang": "py", **headers}, properties={}, delivery_info={},
        )  # fmt: skip


@pytest.fixture
def make(guard: MessageGuard) -> Any:
    app = Celery("test", broker="memory://", set_as_current=False)
    app.conf.accept_content = ["json"]
    kind = request_class(guard)

    @app.task(name="pam.rotate")
    def rotate(job_uid: str) -> None:
        """Do nothing."""

    def build(headers: dict[str, Any], body: Any) -> Any:
        found = message(headers, body)
        return kind(found, app=app, task=rotate, headers=found.headers, decoded=False)

    return build


def test_the_request_class_builds_what_is_signed(make: Any) -> None:
    request = make({"task": "pam.rotate", "id": "job.1", **signed()}, [["job"], {}, EMBED])
    assert request.args == ["job"]


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"task": "pam.rotate", "id": "job.1"}, [["job"], {}, EMBED]),
        ({"task": "pam.rotate", "id": "job.1", **signed()}, [["other"], {}, EMBED]),
        ({"task": "pam.rotate", "id": "job.1", **signed()}, "no list"),
        ({"task": "pam.rotate", "id": "job.1", **signed()}, [1, 2]),
        ({"task": "pam.rotate", **signed()}, [["job"], {}, EMBED]),
        ({"task": "pam.rotate", "id": "job.1", **signed()}, [["job"], {}, {**EMBED, "chain": [{}]}]),
    ],
)
def test_the_request_class_refuses_before_the_pool(make: Any, headers: dict[str, Any], body: Any) -> None:
    with pytest.raises(InvalidTaskError):
        make(headers, body)
