"""Bare loops, one a connector: each sets an account's password as the administrator and logs in with it, by a driver alone."""

from __future__ import annotations

import contextlib
import hashlib
import ssl
from typing import Any

import amqp
import httpx
import ldap3
import oracledb
import paramiko
import psycopg
import pymssql
import pymysql
from psycopg import sql
from redis import Redis
from winrm.exceptions import WSManFaultError
from winrm.protocol import Protocol

from connectors.network.secrets import type9
from connectors.sqlserver.quoting import identifier, literal
from connectors.windows import programs
from connectors.windows.errors import ACCESS_DENIED
from connectors.windows.programs import command_line, encode_input, read_answer
from pam_jobs.secret import SecretValue
from tests.support.benches.activedirectory import ActiveDirectoryBench
from tests.support.benches.linux import LinuxBench
from tests.support.benches.macos import MacosBench
from tests.support.benches.mariadb import MariadbBench, Mysql8Bench
from tests.support.benches.mongodb import MongodbBench
from tests.support.benches.network import IosXeBench
from tests.support.benches.openldap import OpenldapBench
from tests.support.benches.oracle import OracleBench
from tests.support.benches.postgresql import PostgresBench
from tests.support.benches.rabbitmq import RabbitmqBench
from tests.support.benches.redis import RedisBench
from tests.support.benches.saas import SaasBench
from tests.support.benches.sqlserver import SqlserverBench
from tests.support.benches.windows import WindowsBench


def postgresql(bench: PostgresBench, login: str, password: str) -> None:
    place = {"host": bench.target.host, "port": bench.target.port, "dbname": "postgres"}
    admin = bench.admin
    with psycopg.connect(**place, user=admin.login, password=_text(admin), autocommit=True) as connection:
        verifier = connection.pgconn.encrypt_password(password.encode(), login.encode(), b"scram-sha-256").decode()
        connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(login), sql.Literal(verifier)))
    psycopg.connect(**place, user=login, password=password).close()


def mariadb(bench: MariadbBench | Mysql8Bench, login: str, password: str) -> None:
    bench.execute("ALTER USER %s@'%%' IDENTIFIED BY %s", login, password)
    pymysql.connect(host=bench.target.host, port=bench.target.port, user=login, password=password).close()


def mysql8(bench: Mysql8Bench, login: str, password: str) -> None:
    mariadb(bench, login, password)


def mongodb(bench: MongodbBench, login: str, password: str) -> None:
    bench.set_by_hand(login, password)
    with bench.client(login, password) as client:
        client.admin.command("ping")


def rabbitmq(bench: RabbitmqBench, login: str, password: str) -> None:
    bench.set_by_hand(login, password)
    place = f"{bench.server.host}:{bench.server.amqp_port}"
    connection = amqp.Connection(place, userid=login, password=password, login_method="PLAIN")
    with contextlib.suppress(amqp.exceptions.NotAllowed):  # said after the password was taken: it may enter no host
        connection.connect()
    connection.collect()


def sqlserver(bench: SqlserverBench, login: str, password: str) -> None:
    place = {"server": bench.target.host, "port": str(bench.target.port), "autocommit": True}
    with pymssql.connect(**place, user=bench.admin.login, password=_text(bench.admin)) as connection:
        connection.cursor().execute(f"ALTER LOGIN {identifier(login)} WITH PASSWORD = {literal(password)}")
    pymssql.connect(**place, user=login, password=password).close()


def oracle(bench: OracleBench, login: str, password: str) -> None:
    dsn = f"{bench.target.host}:{bench.target.port}/{bench.target.database}"
    with oracledb.connect(user=bench.admin.login, password=_text(bench.admin), dsn=dsn) as connection:
        connection.cursor().execute(f'ALTER USER "{login}" IDENTIFIED BY "{password}"')
    oracledb.connect(user=login, password=password, dsn=dsn).close()


def saas_rest(bench: SaasBench, login: str, password: str) -> None:
    at = bench.services
    with httpx.Client(trust_env=False) as client:
        headers = {"Authorization": f"Bearer {at.token}"}
        content = {"username": login, "new_password": password}
        client.post(f"{at.url}/rest/password", headers=headers, json=content).raise_for_status()
        client.get(f"{at.url}/rest/login", auth=(login, password)).raise_for_status()


def openldap(bench: OpenldapBench, login: str, password: str) -> None:
    with _ldaps(bench, bench.admin.login, _text(bench.admin)) as connection:
        assert connection.extend.standard.modify_password(bench.dn(login), new_password=password)
    _ldaps(bench, bench.dn(login), password).unbind()


def activedirectory(bench: ActiveDirectoryBench, login: str, password: str) -> None:
    value = [(ldap3.MODIFY_REPLACE, [f'"{password}"'.encode("utf-16-le")])]
    with _ldaps(bench, bench.admin.login, _text(bench.admin)) as connection:
        assert connection.modify(bench.dn(login), {"unicodePwd": value}), connection.result
    _ldaps(bench, bench.dn(login), password).unbind()


def _ldaps(bench: OpenldapBench | ActiveDirectoryBench, login: str, password: str) -> ldap3.Connection:
    tls = ldap3.Tls(validate=ssl.CERT_REQUIRED, ca_certs_file=str(bench.server.ca))
    server = ldap3.Server(bench.target.host, bench.target.port, use_ssl=True, tls=tls, get_info=ldap3.NONE)
    return ldap3.Connection(server, login, password, auto_bind=True, check_names=False)


def redis(bench: RedisBench, login: str, password: str) -> None:
    bench.execute("ACL", "SETUSER", login, "resetpass", f"#{hashlib.sha256(password.encode()).hexdigest()}")
    bench.execute("ACL", "SAVE")
    with Redis(host=bench.server.host, port=bench.server.port, username=login, password=password) as client:
        client.execute_command("AUTH", login, password)


def linux(bench: LinuxBench, login: str, password: str) -> None:
    _by_sudo(bench, "chpasswd", f"{login}:{password}\n")
    _ssh(bench, login, password).close()


def macos(bench: MacosBench, login: str, password: str) -> None:
    _by_sudo(bench, f"sysadminctl -newPassword - -resetPasswordFor {login}", f"{password}\n")
    _ssh(bench, login, password).close()


def ios_xe(bench: IosXeBench, login: str, password: str) -> None:
    line = f"username {login} privilege 1 secret 9 {type9(SecretValue(password))}"
    with _ssh(bench, bench.admin.login, _text(bench.admin)) as client:
        shell = client.invoke_shell(width=511)
        shell.settimeout(30)
        said = ""
        for command in ("configure terminal", line, "end", "write memory", "exit"):
            shell.send(f"{command}\n".encode())
        while part := shell.recv(4096).decode():
            said += part
        assert "[OK]" in said, said
    _ssh(bench, login, password).close()


def windows(bench: WindowsBench, login: str, password: str) -> None:
    protocol = _winrm(bench, bench.admin.login, _text(bench.admin))
    shell = protocol.open_shell(codepage=65001, noprofile=True)
    command = protocol.run_command(shell, command_line(programs.SET))
    content = encode_input({"login": login}, SecretValue(password))
    protocol.send_command_input(shell, command, content, end=True)
    answer = read_answer(protocol.get_command_output(shell, command)[0].decode())
    protocol.cleanup_command(shell, command)
    protocol.close_shell(shell)
    assert answer is not None
    assert answer.ok
    protocol = _winrm(bench, login, password)
    try:
        protocol.close_shell(protocol.open_shell())
    except WSManFaultError as fault:
        if fault.wsman_fault_code != ACCESS_DENIED:  # which says that the password was taken, and gives no shell
            raise


def _winrm(bench: WindowsBench, login: str, password: str) -> Protocol:
    endpoint = f"http://{bench.target.host}:{bench.target.port}/wsman"
    return Protocol(endpoint, transport="ntlm", username=login, password=password)


def _by_sudo(bench: LinuxBench, command: str, text: str) -> None:
    with _ssh(bench, bench.admin.login, _text(bench.admin)) as client:
        stdin, stdout, _ = client.exec_command(f"sudo -n {command}")
        stdin.write(text)
        stdin.channel.shutdown_write()
        assert stdout.channel.recv_exit_status() == 0


def _ssh(bench: LinuxBench | IosXeBench, login: str, password: str) -> paramiko.SSHClient:
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.AutoAddPolicy())  # noqa: S507 - the lab's own server
    client.connect(
        bench.target.host, bench.target.port, login, password, allow_agent=False, look_for_keys=False, banner_timeout=30
    )
    return client


def _text(credential: Any) -> str:
    return str(credential.password.reveal())
