from __future__ import annotations

import json
import stat
from pathlib import Path

import httpx
import jwt
import pytest

from pam_jobs import errors
from pam_jobs.client.http import RouterClient
from pam_jobs.client.passphrase import change_passphrase
from pam_jobs.client.profile import Profile
from pam_jobs.client.session import Session, TokenSource, connect, sign_in
from pam_jobs.crypto import p256
from pam_jobs.secret import SecretValue
from tests.support.operator import PASSPHRASE, Office

pytestmark = pytest.mark.unit


def test_the_passphrase_signs_in_and_never_leaves(office: Office) -> None:
    session = sign_in(office.anonymous(), "owner", PASSPHRASE)

    assert session.public_key == office.session.public_key
    assert all(PASSPHRASE.reveal().encode() not in body for body in office.transport.seen)
    assert office.client(session).router.get("/api/v1/me")["username"] == "owner"


@pytest.mark.parametrize(("name", "words"), [("owner", "quite-else"), ("nobody", "correct horse battery staple")])
def test_a_wrong_name_or_passphrase_is_refused_with_one_sentence(office: Office, name: str, words: str) -> None:
    with pytest.raises(errors.AccessDenied) as refused:
        sign_in(office.anonymous(), name, SecretValue(words))

    assert refused.value.remedy
    assert words not in refused.value.sentence()


def test_the_passphrase_can_be_changed(office: Office) -> None:
    new = SecretValue("a quite different passphrase")

    change_passphrase(office.anonymous(), "owner", PASSPHRASE, new)

    assert sign_in(office.anonymous(), "owner", new).public_key == office.session.public_key
    with pytest.raises(errors.AccessDenied):
        sign_in(office.anonymous(), "owner", PASSPHRASE)


def test_tokens_are_short_and_used_again_for_a_while() -> None:
    now = 1_800_000_000.0
    session = Session(username="owner", private_key=p256.generate())
    source = TokenSource(session, now=lambda: now)

    first = source()
    now += 60
    assert source() == first
    now += 100
    second = source()

    assert second != first
    claims = jwt.decode(second, session.private_key.public_key(), ["ES256"], audience="pam-jobs",
                        options={"verify_exp": False, "verify_iat": False})  # fmt: skip
    assert claims["sub"] == "owner"
    assert claims["exp"] - claims["iat"] <= 300


def test_the_session_file_is_the_owners_alone(tmp_path: Path) -> None:
    profile = Profile.load({"PAM_DATA_DIR": str(tmp_path)})
    session = Session(username="owner", private_key=p256.generate())

    session.save(profile)

    assert stat.S_IMODE(profile.session_file.stat().st_mode) == 0o600
    assert Session.load(profile).public_key == session.public_key
    assert "private" not in repr(session)


@pytest.mark.parametrize("content", ["{", "{}", '{"username": "o", "private_key": "AAAA"}', "[]"])
def test_a_damaged_session_says_what_to_do(tmp_path: Path, content: str) -> None:
    profile = Profile.load({"PAM_DATA_DIR": str(tmp_path)})
    profile.session_file.parent.mkdir()
    profile.session_file.write_text(content)

    with pytest.raises(errors.ConfigurationError, match="damaged"):
        Session.load(profile)


def test_somebody_elses_session_is_not_used(tmp_path: Path) -> None:
    profile = Profile.load({"PAM_DATA_DIR": str(tmp_path)})
    Session(username="owner", private_key=p256.generate()).save(profile)

    with pytest.raises(errors.AccessDenied, match="owner is signed in here, not ada"):
        Session.load(Profile.load({"PAM_DATA_DIR": str(tmp_path), "PAM_USERNAME": "ada"}))


def test_the_environment_goes_before_the_profile(tmp_path: Path) -> None:
    Profile(folder=tmp_path, router="https://a:1", ca=tmp_path / "ca.pem", username="owner").save()
    here = {"PAM_DATA_DIR": str(tmp_path)}

    assert Profile.load(here).router == "https://a:1"
    assert Profile.load(here).ca == tmp_path / "ca.pem"
    moved = Profile.load(here | {"PAM_ROUTER": "https://b:2/", "PAM_USERNAME": "ada"})
    assert (moved.router, moved.ca, moved.username) == ("https://b:2", None, "ada")


def test_a_damaged_profile_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "client").mkdir()
    (tmp_path / "client" / "profile.json").write_text("{")

    with pytest.raises(errors.ConfigurationError, match="cannot be read"):
        Profile.load({"PAM_DATA_DIR": str(tmp_path)})


def test_without_router_or_session_the_remedy_is_told(tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigurationError, match="no router is known"):
        connect(environment={"PAM_DATA_DIR": str(tmp_path)})
    with pytest.raises(errors.AccessDenied, match="nobody is signed in"):
        connect(environment={"PAM_DATA_DIR": str(tmp_path), "PAM_ROUTER": "https://r"})


def test_a_passphrase_in_the_environment_signs_in_afresh(office: Office, tmp_path: Path) -> None:
    env = {"PAM_DATA_DIR": str(tmp_path), "PAM_ROUTER": "https://router", "PAM_PASSPHRASE": PASSPHRASE.reveal()}
    with pytest.raises(errors.ConfigurationError, match="no user is named"):
        connect(environment=env, transport=office.transport)

    router, _ = connect(environment=env | {"PAM_USERNAME": "owner"}, transport=office.transport)

    assert router.get("/api/v1/me")["username"] == "owner"


def answering(status: int, body: object, kind: str = "application/problem+json") -> RouterClient:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = httpx.Response(status, content=content, headers={"content-type": kind})
    return RouterClient("https://router", transport=httpx.MockTransport(lambda _request: answer))


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (422, "invalid_input", errors.InvalidInput),
        (403, "access_denied", errors.AccessDenied),
        (401, "anything", errors.AccessDenied),
        (404, "not_found", errors.NotFound),
        (409, "vault_conflict", errors.VaultConflict),
        (409, "already_exists", errors.AlreadyExists),
        (500, "unheard_of", errors.PamJobsError),
    ],
)
def test_problems_become_our_errors(status: int, code: str, kind: type[errors.PamJobsError]) -> None:
    with pytest.raises(kind, match="it is so") as caught:
        answering(status, {"code": code, "detail": "it is so", "remedy": "do this"}).get("/x")

    assert type(caught.value) is kind
    assert caught.value.remedy == "do this"


def test_an_answer_that_is_no_routers_is_named_so() -> None:
    with pytest.raises(errors.VaultUnavailable, match="did not answer as a router"):
        answering(200, b"<html>", "text/html").get("/x")
    with pytest.raises(errors.PamJobsError, match="answered 502"):
        answering(502, b"<html>", "text/html").get("/x")


def test_a_router_that_is_away_is_one_sentence() -> None:
    def refuse(_request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(errors.VaultUnavailable, match="cannot be reached") as caught:
        RouterClient("https://router", transport=httpx.MockTransport(refuse)).get("/x")
    assert caught.value.remedy


def test_only_https_is_spoken(tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigurationError):
        RouterClient("http://router")
    with pytest.raises(errors.ConfigurationError, match="CA file"):
        RouterClient("https://router", ca=tmp_path / "missing.pem")
