"""Rotations a second of each connector, beside a bare loop with the same driver, or an independent one, on the same server.

Both sides do the same: change the password as the administrator, then log in afresh with it. The bare loop connects as
the administrator each time, as a script would; the connector keeps its connection, looks before it changes, and maps
every answer. ``python -m tests.benchmarks.connectors [NAME ...] [--rounds N] [--accounts M]``.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import ssl
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import ldap3
import paramiko
import psycopg
import redis
from psycopg import sql

from connectors.base import Account, Candidate, Effect, VerdictState
from deploy.lab import mariadb, openldap, postgres, sshd
from deploy.lab import redis as lab_redis
from tests.benchmarks.bare import Figures, run_parallel
from tests.support.benches.base import Bench, new_password
from tests.support.benches.linux import LinuxBench, password_admin
from tests.support.benches.mariadb import MariadbBench
from tests.support.benches.openldap import OpenldapBench
from tests.support.benches.postgresql import PostgresBench
from tests.support.benches.redis import RedisBench

Change = Callable[[Any, str, str], None]
"""Sets an account's password and logs in with it; raises when either fails."""


def _postgresql(bench: PostgresBench, login: str, password: str) -> None:
    place = {"host": bench.target.host, "port": bench.target.port, "dbname": "postgres"}
    admin = bench.admin
    with psycopg.connect(**place, user=admin.login, password=_text(admin), autocommit=True) as connection:
        verifier = connection.pgconn.encrypt_password(password.encode(), login.encode(), b"scram-sha-256").decode()
        connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(login), sql.Literal(verifier)))
    psycopg.connect(**place, user=login, password=password).close()


def _mariadb(bench: MariadbBench, login: str, password: str) -> None:
    import pymysql

    bench.execute("ALTER USER %s@'%%' IDENTIFIED BY %s", login, password)
    pymysql.connect(host=bench.target.host, port=bench.target.port, user=login, password=password).close()


def _openldap(bench: OpenldapBench, login: str, password: str) -> None:
    with _ldaps(bench, bench.admin.login, _text(bench.admin)) as connection:
        assert connection.extend.standard.modify_password(bench.dn(login), new_password=password)
    _ldaps(bench, bench.dn(login), password).unbind()


def _ldaps(bench: OpenldapBench, login: str, password: str) -> ldap3.Connection:
    tls = ldap3.Tls(validate=ssl.CERT_REQUIRED, ca_certs_file=str(bench.server.ca))
    server = ldap3.Server(bench.server.host, bench.server.secure_port, use_ssl=True, tls=tls, get_info=ldap3.NONE)
    return ldap3.Connection(server, login, password, auto_bind=True)


def _redis(bench: RedisBench, login: str, password: str) -> None:
    bench.execute("ACL", "SETUSER", login, "resetpass", f"#{hashlib.sha256(password.encode()).hexdigest()}")
    bench.execute("ACL", "SAVE")
    with redis.Redis(host=bench.server.host, port=bench.server.port, username=login, password=password) as client:
        client.execute_command("AUTH", login, password)


def _linux(bench: LinuxBench, login: str, password: str) -> None:
    admin = bench.admin
    with _ssh(bench, admin.login, _text(admin)) as client:
        stdin, stdout, _ = client.exec_command("sudo -n chpasswd")
        stdin.write(f"{login}:{password}\n")
        stdin.channel.shutdown_write()
        assert stdout.channel.recv_exit_status() == 0
    _ssh(bench, login, password).close()


def _ssh(bench: LinuxBench, login: str, password: str) -> paramiko.SSHClient:
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.AutoAddPolicy())  # noqa: S507 - the lab's own server
    client.connect(
        bench.target.host, bench.target.port, login, password, allow_agent=False, look_for_keys=False, banner_timeout=30
    )
    return client


def _text(credential: Any) -> str:
    return str(credential.password.reveal())


CONTENDERS: dict[str, tuple[Any, Callable[[Any], Bench], Change]] = {
    "postgresql": (postgres, PostgresBench, _postgresql),
    "mariadb": (mariadb, MariadbBench, _mariadb),
    "openldap": (openldap, OpenldapBench, _openldap),
    "redis": (lab_redis, RedisBench, _redis),
    "linux": (
        sshd, lambda server: LinuxBench(server, "admin with password", admin=password_admin(server)), _linux
    ),
}  # fmt: skip


def _ours(bench: Bench, account: Account) -> None:
    """Do what a gateway does: look, change, log in; the administrator's connection is kept."""
    candidate = Candidate(password=new_password())
    with bench.open(candidate.credential(account), seconds=60) as session:
        session.preflight(account)
        assert session.change(account, candidate, lambda: None) is Effect.APPLIED
        verdict = session.probe(account, candidate.credential(account))
    assert verdict.state is VerdictState.ACCEPTED, verdict


def _round(bench: Bench, change: Change, accounts: dict[str, Account], workers: int, *, is_ours: bool) -> Figures:
    def once(login: str) -> None:
        if is_ours:
            _ours(bench, accounts[login])
        else:
            change(bench, login, new_password().reveal())

    return run_parallel("connector" if is_ours else "bare", workers, list(accounts), once)


@contextmanager
def _running(module: Any) -> Iterator[Any]:
    folder = Path(tempfile.mkdtemp(prefix="pam-bench-"))
    folder.chmod(0o755)
    try:
        server = module.start(folder)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Rotations a second of connectors, beside bare loops.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CONTENDERS)}; all when absent")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--accounts", type=int, default=40, help="rotations in a round")
    asked = parser.parse_args()
    print(
        f"{'connector':<12} {'at a time':>9} {'rotations/s':>12} {'p50 ms':>8} {'bare/s':>8} {'ratio (of rounds)':>22}"
    )
    for name in asked.names or list(CONTENDERS):
        module, make, change = CONTENDERS[name]
        with ExitStack() as stack:
            bench = make(stack.enter_context(_running(module)))
            accounts = {each.login: each for each, _ in (bench.new_account() for _ in range(asked.accounts))}
            for workers in (1, 8):
                rounds = []
                for number in range(asked.rounds):
                    order = (True, False) if number % 2 else (False, True)
                    pair = {each: _round(bench, change, accounts, workers, is_ours=each) for each in order}
                    rounds.append((pair[True], pair[False]))
                ours = statistics.median(each.rate for each, _ in rounds)
                bare = statistics.median(each.rate for _, each in rounds)
                ratios = sorted(each.rate / other.rate for each, other in rounds)
                half = statistics.median(each.percentile(0.5) for each, _ in rounds)
                spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
                print(f"{name:<12} {workers:>9} {ours:>12.1f} {half:>8.1f} {bare:>8.1f} {spread:>22}")
            bench.connector.close_idle()


if __name__ == "__main__":
    main()
