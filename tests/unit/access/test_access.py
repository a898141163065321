from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from pydantic import ValidationError

from pam_jobs.access import roles, sign_in_token, tokens, users
from pam_jobs.access.roles import Permission, Role, Scope
from pam_jobs.audit.log import Actor
from pam_jobs.clock import VirtualClock
from pam_jobs.crypto import aes, p256, passphrase
from pam_jobs.db.engine import Database
from pam_jobs.errors import AccessDenied, AlreadyExists, InvalidInput, NotFound
from pam_jobs.secret import SecretValue

pytestmark = pytest.mark.unit

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ACTOR = Actor(username="admin")
WORDS = SecretValue("correct horse battery")


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(NOW)


def test_a_token_of_the_users_key_is_taken() -> None:
    key = p256.generate()
    token = sign_in_token.issue(key, "ada", NOW)
    assert sign_in_token.subject(token) == "ada"
    sign_in_token.check(token, p256.public_point(key), NOW)
    sign_in_token.check(token, p256.public_point(key), NOW + timedelta(seconds=290))


def _encoded(key: Any, algorithm: str = "ES256", **claims: Any) -> str:
    at = int(NOW.timestamp())
    content = {"sub": "ada", "aud": "pam-jobs", "iat": at, "exp": at + 240, **claims}
    return jwt.encode({name: value for name, value in content.items() if value is not None}, key, algorithm=algorithm)


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "other"},
        {"aud": None},
        {"exp": None},
        {"iat": None},
        {"exp": int(NOW.timestamp()) + 301},
        {"iat": int(NOW.timestamp()) + 61, "exp": int(NOW.timestamp()) + 200},
        {"iat": int(NOW.timestamp()) - 300, "exp": int(NOW.timestamp()) - 61},
        {"exp": "soon"},
    ],
    ids=repr,
)
def test_a_token_with_wrong_claims_is_refused(claims: dict[str, Any]) -> None:
    key = p256.generate()
    with pytest.raises(AccessDenied):
        sign_in_token.check(_encoded(key, **claims), p256.public_point(key), NOW)


def test_a_token_of_another_key_or_algorithm_is_refused() -> None:
    key = p256.generate()
    point = p256.public_point(key)
    forged = _encoded(b"x" * 32, "HS256")
    unsigned = _encoded(None, "none")
    for token in (_encoded(p256.generate()), forged, unsigned, "no.token.here", ""):
        with pytest.raises(AccessDenied):
            sign_in_token.check(token, point, NOW)
    for token in ("no.token.here", ""):
        with pytest.raises(AccessDenied):
            sign_in_token.subject(token)
    with pytest.raises(AccessDenied):
        sign_in_token.subject(_encoded(key, sub=None))


def test_roles_and_scopes_allow_what_they_say() -> None:
    assert roles.permissions("admin", None) == frozenset(Permission)
    assert roles.permissions("operator", None) == frozenset(Permission) - {Permission.USERS, Permission.SIEM}
    assert roles.permissions("auditor", None) == {
        Permission.JOBS_READ,
        Permission.AUDIT_READ,
        Permission.METRICS_READ,
    }
    assert roles.permissions("admin", ["jobs:read"]) == {Permission.JOBS_READ}
    assert roles.permissions("auditor", ["jobs:write"]) == {Permission.JOBS_READ}
    assert roles.permissions("admin", []) == frozenset()
    assert set(roles.PERMISSIONS_OF_ROLE) == set(Role)
    assert set(roles.PERMISSIONS_OF_SCOPE) == set(Scope)


def test_a_user_made_on_the_client_holds_no_secret_in_clear() -> None:
    new, key = users.make_user("ada", WORDS, "operator")
    halves = passphrase.derive(WORDS, new.salt, new.iterations)
    assert p256.public_point(p256.load_private(aes.decrypt(new.wrapped_private_key, halves.wrapping))) == new.public_key
    assert p256.public_point(key) == new.public_key
    assert halves.proof not in new.model_dump().values()


@pytest.mark.parametrize("name", ["", " ada", "-ada", "a b", "ä", "x" * 255])
def test_odd_user_names_are_refused(name: str) -> None:
    good, _ = users.make_user("ada", WORDS, "operator")
    with pytest.raises(ValidationError):
        users.NewUser.model_validate(good.model_dump() | {"username": name})


def test_a_user_is_registered_once(database: Database, clock: VirtualClock) -> None:
    new, _ = users.make_user("ada", WORDS, "operator")
    with database.transaction() as session:
        users.register(session, clock, ACTOR, new)
    with pytest.raises(AlreadyExists), database.transaction() as session:
        users.register(session, clock, ACTOR, new.model_copy(update={"uid": "A" * 22}))
    with pytest.raises(InvalidInput), database.transaction() as session:
        users.register(session, clock, ACTOR, new.model_copy(update={"public_key": b"\x04" + bytes(64)}))


def test_an_account_is_locked_after_repeated_failures_and_opens_again(database: Database, clock: VirtualClock) -> None:
    new, _ = users.make_user("ada", WORDS, "operator")
    proof = passphrase.derive(WORDS, new.salt).proof

    def attempt(given: bytes) -> bool:
        with database.transaction() as session:
            return users.sign_in(session, clock, ACTOR, "ada", given) is not None

    with database.transaction() as session:
        users.register(session, clock, ACTOR, new)
        assert users.sign_in(session, clock, ACTOR, "nobody", proof) is None
    assert [attempt(b"x" * 32) for _ in range(users.LOCK_AFTER - 1)] == [False] * (users.LOCK_AFTER - 1)
    assert attempt(proof)  # a success forgets the failures
    assert [attempt(b"x" * 32) for _ in range(users.LOCK_AFTER)] == [False] * users.LOCK_AFTER
    assert not attempt(proof)
    clock.advance(timedelta(minutes=16))
    assert attempt(proof)


def test_a_passphrase_is_changed_by_who_knows_it(database: Database, clock: VirtualClock) -> None:
    new, key = users.make_user("ada", WORDS, "operator")
    changed = users.make_passphrase(key, SecretValue("another one"))
    with database.transaction() as session:
        users.register(session, clock, ACTOR, new)
        with pytest.raises(AccessDenied):
            users.change_passphrase(session, clock, ACTOR, new.uid, b"x" * 32, changed)
        proof = passphrase.derive(WORDS, new.salt).proof
        users.change_passphrase(session, clock, ACTOR, new.uid, proof, changed)
        assert users.sign_in(session, clock, ACTOR, "ada", proof) is None
        proof = passphrase.derive(SecretValue("another one"), changed.salt).proof
        assert users.sign_in(session, clock, ACTOR, "ada", proof) is not None


def test_api_tokens_expire_and_are_revoked(database: Database, clock: VirtualClock) -> None:
    new, _ = users.make_user("ada", WORDS, "operator")
    wanted = tokens.NewToken(name="ci", scopes=[Scope.JOBS_WRITE, Scope.JOBS_READ], expires_in_seconds=3600)
    with database.transaction() as session:
        users.register(session, clock, ACTOR, new)
        first, text = tokens.create(session, clock, ACTOR, new.uid, wanted)
        second, other = tokens.create(session, clock, ACTOR, new.uid, wanted)
        assert text.startswith(tokens.PREFIX)
        assert len(text) == 48
    with database.transaction() as session:
        found = tokens.find(session, clock, text)
        assert found is not None
        assert (found[0].uid, found[1].username, found[0].scopes) == (first.uid, "ada", ["jobs:read", "jobs:write"])
        assert found[0].last_used_at == clock.now()
        assert tokens.find(session, clock, text + "x") is None
        tokens.revoke(session, clock, ACTOR, new.uid, second.uid)
        assert tokens.find(session, clock, other) is None
        with pytest.raises(NotFound):
            tokens.revoke(session, clock, ACTOR, new.uid, second.uid)
        assert [row.uid for row in tokens.list_for_user(session, new.uid)] == [first.uid]
        clock.advance(timedelta(hours=1))
        assert tokens.find(session, clock, text) is None
