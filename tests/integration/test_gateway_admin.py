"""Administrators of a real PostgreSQL server: refused, outdated, changing each other, and throttled by the server."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import typer
from psycopg import sql
from sqlalchemy import func, select
from typer.testing import CliRunner, Result

from deploy.lab import PostgresServer
from pam_jobs.cli import action
from pam_jobs.cli import job as job_commands
from pam_jobs.client.profile import Profile
from pam_jobs.db.tables import CredentialEpoch, Job, LoginRefusal
from pam_jobs.errors import PamJobsError
from pam_jobs.records.record import Record
from tests.support.gateway_site import GatewaySite
from tests.support.router import RunningRouter
from workers.engine import Engine

pytestmark = pytest.mark.integration
FIRST = "First-Secret-1"


class Server:
    """A site with the lab's PostgreSQL as a resource, and an administrator of its own."""

    def __init__(self, site: GatewaySite, server: PostgresServer) -> None:
        self.site = site
        self.server = server
        self.made: list[str] = []
        self.login, self.admin = self.add("SUPERUSER")
        self.resource = site.add_resource("pamDatabase", server.host, server.port, self.admin)
        site.rotate_by(self.admin, self.resource)

    def add(self, rights: str = "") -> tuple[str, str]:
        """Create a role and its record, and return login and uid."""
        login = "adm" + secrets.token_hex(4)
        words = sql.SQL("CREATE ROLE {} LOGIN {} PASSWORD {}")
        self.execute(words.format(sql.Identifier(login), sql.SQL(rights), sql.Literal(FIRST)))
        self.made.append(login)
        return login, self.site.add_user(login, FIRST)

    def add_user(self) -> tuple[str, str]:
        login, uid = self.add()
        self.site.rotate_by(uid, self.resource)
        return login, uid

    def set_password(self, login: str, password: str) -> None:
        self.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(login), sql.Literal(password)))

    def execute(self, statement: sql.Composed) -> None:
        with self.connect(self.server.admin_login, self.server.admin_password) as connection:
            connection.execute(statement)

    def connect(self, login: str, password: str) -> psycopg.Connection:
        return psycopg.connect(
            host=self.server.host, port=self.server.port, user=login, password=password, dbname=self.server.database,
            autocommit=True,
        )  # fmt: skip

    def logs_in(self, login: str, uid: str) -> bool:
        try:
            self.connect(login, self.site.password(uid)).close()
        except psycopg.OperationalError:
            return False
        return True

    def refusals(self, login: str) -> int:
        """How often the server itself says that it refused the login."""
        return self.server.log_path.read_text().count(f'password authentication failed for user "{login}"')

    def counted(self) -> int:
        with self.site.router.database.transaction(read_only=True) as session:
            return session.scalar(select(func.count()).select_from(LoginRefusal)) or 0

    def reasons(self, job_uid: str) -> list[str]:
        return list(self.site.vault.jobs.explain(job_uid)["reasons"])

    def drop(self) -> None:
        for login in self.made:
            self.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(login)))


@pytest.fixture
def server(
    sqlite_router: RunningRouter, target_postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Server]:
    monkeypatch.setenv("PAM_BUSY_SECONDS", "0.2")
    site = GatewaySite(sqlite_router, tmp_path, port_mapping=f"{target_postgres.port}=postgresql")
    made = Server(site, target_postgres)
    yield made
    site.registry.close_idle()
    made.drop()


def test_a_target_whose_administrator_is_refused_is_left_alone_until_the_record_is_right(server: Server) -> None:
    site, engine = server.site, server.site.engine()
    (_, first), (login, second) = server.add_user(), server.add_user()
    server.set_password(server.login, "Changed-By-Hand-1")
    job = site.run("rotate", first, engine)
    assert (job["state"], job["cause"], job["effect"]) == ("waiting_human", "admin_refused", "not_applied")
    waiting = site.run("rotate", second, engine)
    assert (waiting["state"], waiting["cause"], waiting["attempts"]) == ("created", "target_set_aside", 0)
    assert "the target is set aside since" in server.reasons(waiting["uid"])[0]
    assert server.refusals(server.login) == 1

    def correct(record: Record) -> Record:
        return record.set_field("password", "Changed-By-Hand-1")

    site.vault.records.update(server.admin, correct)
    engine.run(waiting["uid"])
    assert site.opened(waiting["uid"])["state"] == "succeeded"
    assert server.logs_in(login, second)


def pam(site: GatewaySite, *arguments: str, app: typer.Typer = action.app) -> Result:
    """Run ``pam action``, or other commands, as the site's operator."""
    folder = site.folder_path / "operator"
    session = site.vault.session
    profile = Profile(folder=folder, router=site.router.url, ca=site.router.tls.ca, username=session.username)
    profile.save()
    session.save(profile)
    result = CliRunner().invoke(app, list(arguments), env={"PAM_DATA_DIR": str(folder)})
    assert result.exit_code == 0, result.output
    return result


def _pam_explain(site: GatewaySite, job_uid: str) -> str:
    return " ".join(pam(site, "explain", job_uid, app=job_commands.app).stdout.split())


def set_aside(site: GatewaySite) -> list[dict[str, Any]]:
    printed = pam(site, "resume-target", "--format", "json").stdout
    listed = json.JSONDecoder().raw_decode(printed, printed.index("{"))[0]  # the router's log is in this process too
    return list(listed["targets"])


def test_an_operator_may_let_the_target_be_tried_again(server: Server) -> None:
    site, engine = server.site, server.site.engine()
    login, user = server.add_user()
    server.set_password(server.login, "Changed-By-Hand-1")
    site.run("rotate", user, engine)
    assert [(row["record_uid"], row["set_aside"]["admin_uid"]) for row in set_aside(site)] == [
        (server.resource, server.admin)
    ]
    assert server.resource in pam(site, "resume-target").stdout
    server.set_password(server.login, FIRST)
    pam(site, "resume-target", "--resource-uid", server.resource)
    assert set_aside(site) == []
    assert site.run("rotate", user, engine)["state"] == "succeeded"
    assert server.logs_in(login, user)
    with pytest.raises(PamJobsError, match="not set aside"):
        site.vault.pam.resume_resource(server.resource)


def test_an_administrator_that_was_set_back_is_found_among_its_older_values(server: Server) -> None:
    site, engine = server.site, server.site.engine()
    login, user = server.add_user()
    assert site.run("rotate", server.admin, engine)["state"] == "succeeded"
    engine = site.engine()
    server.set_password(server.login, FIRST)  # as a restored target has it
    job = site.run("rotate", user, engine)
    assert job["state"] == "succeeded"
    assert server.logs_in(login, user)
    assert server.refusals(server.login) <= 1
    assert "pam_admin_outdated" in {event.event for event in site.router.events()}
    assert site.run("rotate", server.admin, engine)["state"] == "succeeded"
    assert server.logs_in(server.login, server.admin)


def test_two_administrators_that_change_each_other_are_never_changed_at_once(server: Server) -> None:
    site = server.site
    pair = [server.add("SUPERUSER") for _ in range(2)]
    for (_, uid), (_, other) in (pair, pair[::-1]):
        resource = site.add_resource("pamDatabase", server.server.host, server.server.port, other)
        site.rotate_by(uid, resource)
    meter = _Meter()
    engines = [site.engine(meter.reach) for _ in pair]
    jobs = [site.submit("rotate", uid) for _, uid in pair]
    runs = [
        threading.Thread(target=_until_done, args=(engine, uid, meter))
        for engine, uid in zip(engines, jobs, strict=True)
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join(60)
    assert [site.opened(uid)["state"] for uid in jobs] == ["succeeded", "succeeded"]
    assert meter.most == 1
    assert all(server.logs_in(login, uid) for login, uid in pair)
    assert [server.refusals(login) for login, _ in pair] == [0, 0]


@pytest.fixture
def rescue(server: Server) -> tuple[str, str]:
    """Another administrator of the same server, which stands on a resource record of its own: that says localhost."""
    assert server.server.host == "127.0.0.1"
    login, uid = server.add("SUPERUSER")
    server.site.rotate_by(uid, server.site.add_resource("pamDatabase", "localhost", server.server.port, uid))
    return login, uid


def test_administrators_on_two_records_of_one_server_are_never_changed_at_once(
    server: Server, rescue: tuple[str, str]
) -> None:
    site, (login, uid) = server.site, rescue
    is_changed, goes_on = threading.Event(), threading.Event()

    def pause(name: str) -> None:
        if name == "after:change":
            is_changed.set()
            goes_on.wait(30)

    first, second = site.submit("rotate", server.admin), site.submit("rotate", uid)
    run = threading.Thread(target=site.engine(pause).run, args=(first,))
    run.start()
    try:
        assert is_changed.wait(30)
        assert site.engine().run(second) is None
        waiting = site.opened(second)
        assert (waiting["state"], waiting["cause"], waiting["attempts"]) == ("queued", "administrator_busy", 0)
        assert _connects(server, login, FIRST), "it is as it was"
        told = f"it waits its turn: job {first} changes another administrator of the same server"
        assert told in _pam_explain(site, second)
        assert str(server.server.port).encode() not in site.router.dump()
    finally:
        goes_on.set()
        run.join(30)
    assert site.opened(first)["state"] == "succeeded"
    site.engine().run(second)
    assert site.opened(second)["state"] == "succeeded"
    assert server.logs_in(server.login, server.admin)
    assert server.logs_in(login, uid)


def test_an_administrator_that_was_cut_off_is_brought_to_its_end_before_the_next_one(
    server: Server, rescue: tuple[str, str]
) -> None:
    site, (login, uid) = server.site, rescue

    class Cut(BaseException):
        pass

    def cut(name: str) -> None:
        if name == "after:change":
            raise Cut

    first, second = site.submit("rotate", server.admin), site.submit("rotate", uid)
    with pytest.raises(Cut):
        site.engine(cut).run(first)
    _end_lease(site, first)
    assert site.engine().run(second) is None
    assert _connects(server, login, FIRST), "it is as it was"
    assert f"job {first} was cut off" in _pam_explain(site, second)
    site.engine().run(first)
    assert site.opened(first)["state"] == "succeeded"
    site.engine().run(second)
    assert site.opened(second)["state"] == "succeeded"
    assert server.logs_in(server.login, server.admin)
    assert server.logs_in(login, uid)


def _connects(server: Server, login: str, password: str) -> bool:
    try:
        server.connect(login, password).close()
    except psycopg.OperationalError:
        return False
    return True


def _end_lease(site: GatewaySite, job_uid: str) -> None:
    """Let the lease end, as time does."""
    with site.router.database.transaction() as session:
        row = session.get_one(Job, job_uid)
        for held in (row, session.get_one(CredentialEpoch, row.record_uid)):
            held.lease_until = site.router.context.clock.now()


class _Meter:
    """Counts the rotations between their claim and their promotion; the first one waits until another was sent away."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = 0
        self.most = 0
        self.sent_away = threading.Event()

    def reach(self, name: str) -> None:
        if name == "after:claim":
            with self._lock:
                self._now += 1
                self.most = max(self.most, self._now)
            self.sent_away.wait(10)
        elif name == "after:promote":
            with self._lock:
                self._now -= 1


def _until_done(engine: Engine, job_uid: str, meter: _Meter) -> None:
    end = time.monotonic() + 40
    while engine.run(job_uid) is None and time.monotonic() < end:
        meter.sent_away.set()
        time.sleep(0.25)


def test_a_server_without_a_free_connection_refuses_nobody(server: Server) -> None:
    site, engine = server.site, server.site.engine()
    _, user = server.add_user()
    with _crowd(server):
        seen = site.run("verify", user, engine)
        assert (seen["status"], seen["cause"]) == ("unknown", "too_many_connections")
        job = site.run("rotate", user, engine)
    assert (job["state"], job["cause"], job["effect"]) == ("failed", "unreachable", "not_applied")
    assert server.counted() == 0
    assert all(row["set_aside"] is None for row in site.vault.pam.resources())


@contextmanager
def _crowd(server: Server) -> Iterator[None]:
    """Use up every connection of the server, those kept for superusers as well."""
    with ExitStack() as stack:
        for _ in range(200):
            try:
                connection: Any = server.connect(server.server.admin_login, server.server.admin_password)
            except psycopg.OperationalError:
                break
            stack.enter_context(connection)
        else:
            pytest.fail("the server has no limit")
        yield
