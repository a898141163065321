"""Accounts of MySQL and MariaDB: which of them a login names and reaches, and the statements that change them."""

from __future__ import annotations

import pytest

from connectors.mysql.accounts import (
    Identity,
    Login,
    alter_user,
    from_mariadb,
    from_mysql,
    lock_name,
    parse_login,
    reached_from,
    set_own,
)
from connectors.mysql.hashes import ed25519_hash, native_hash
from connectors.mysql.server import name_of, rights_on_all, roles_of
from pam_jobs.errors import Unsupported
from pam_jobs.secret import SecretValue

pytestmark = pytest.mark.unit

PASSWORD = "pässwörd".encode()


def identity(user: str, host: str, plugin: str = "mysql_native_password", stored: str = "") -> Identity:
    return Identity(user=user, host=host, methods=((plugin, stored),))


def test_hashes_are_those_the_servers_store():
    assert native_hash(b"x") == "*B69027D44F6E5EDC07F1AEAD1477967B16F28227"
    assert native_hash(b"x1") == "*6891F9D51EB5A38D1BB310DDBC6379A189A4F575"
    assert ed25519_hash(b"sec") == "272kB321r5JqQhQqChknQ7+mg1djyfnc4ixdelYnqrk"


@pytest.mark.parametrize(
    ("text", "login"),
    [
        ("joe", Login(user="joe")),
        ("joe@%", Login(user="joe", host="%")),
        ("ann@example.com@10.0.0.%", Login(user="ann@example.com", host="10.0.0.%")),
    ],
)
def test_a_login_is_a_user_or_one_of_its_hosts(text, login):
    assert parse_login(text) == login


@pytest.mark.parametrize(
    ("hosts", "addresses", "expected"),
    [
        (["%", "10.0.0.5"], ["10.0.0.5"], "10.0.0.5"),
        (["%", "10.0.0.%", "10.%"], ["10.0.0.5"], "10.0.0.%"),
        (["10.0.0.0/255.255.255.0", "%"], ["10.0.0.5"], "10.0.0.0/255.255.255.0"),
        (["10.1.0.0/16"], ["10.0.0.5"], None),
        (["localhost", "::1"], ["10.0.0.5"], None),
        (["localhost", "%"], ["127.0.0.1"], "unsure"),
        (["localhost", "%"], ["127.0.0.1", "localhost"], "localhost"),
        (["GATEWAY.example.com"], ["10.0.0.5", "gateway.example.com"], "GATEWAY.example.com"),
        (["%.example.com"], ["10.0.0.5"], "unsure"),
        (["10.0.0._"], ["10.0.0.5"], "10.0.0._"),
        ([], ["10.0.0.5"], None),
    ],
)
def test_the_most_exact_host_is_reached(hosts, addresses, expected):
    found = reached_from([identity("joe", host) for host in hosts], addresses)
    assert (found.host if isinstance(found, Identity) else found) == expected


def test_an_anonymous_account_of_a_more_exact_host_is_reached_first():
    accounts = [identity("joe", "%"), identity("", "10.0.0.5")]
    assert reached_from(accounts, ["10.0.0.5"]) == accounts[1]
    assert reached_from([identity("", "%"), accounts[0]], ["10.0.0.5"]) == accounts[0]


def test_mariadb_is_told_every_plugin_of_an_account_again():
    mixed = from_mariadb(
        "joe", "%", '{"plugin":"mysql_native_password","authentication_string":"*A","auth_or":[{"plugin":"unix_socket"},'
        '{},{"plugin":"pam","authentication_string":"mariadb"}]}',
    )  # fmt: skip
    statement, values = alter_user([mixed, identity("joe", "h", "ed25519")], PASSWORD, is_mariadb=True, in_clear=False)
    assert statement == (
        "ALTER USER %s@%s IDENTIFIED VIA unix_socket OR mysql_native_password USING %s OR pam USING %s,"
        " %s@%s IDENTIFIED VIA ed25519 USING %s"
    )
    assert values == ["joe", "%", native_hash(PASSWORD), "mariadb", "joe", "h", ed25519_hash(PASSWORD)]
    statement, values = alter_user([identity("joe", "%")], PASSWORD, is_mariadb=True, in_clear=True)
    assert statement.endswith("VIA mysql_native_password USING PASSWORD(%s)")
    assert values[-1] == "pässwörd"


def test_mysql_is_told_the_plugin_it_has():
    accounts = [identity("joe", "%"), identity("joe", "h", "caching_sha2_password")]
    statement, values = alter_user(accounts, PASSWORD, is_mariadb=False, in_clear=False)
    assert statement == (
        "ALTER USER %s@%s IDENTIFIED WITH mysql_native_password AS %s, %s@%s IDENTIFIED WITH caching_sha2_password BY %s"
    )
    assert values == ["joe", "%", native_hash(PASSWORD), "joe", "h", "pässwörd"]


def test_an_account_that_changes_itself_names_what_it_had_where_mysql_may_ask():
    own = identity("joe", "%", "caching_sha2_password")
    statement, values = set_own(own, PASSWORD, SecretValue("old"), is_mariadb=False, in_clear=True)
    assert statement == "ALTER USER USER() IDENTIFIED BY %s REPLACE %s"
    assert values == ["pässwörd", "old"]
    own = identity("joe", "%", "ed25519")
    assert set_own(own, PASSWORD, None, is_mariadb=True, in_clear=False)[1] == [ed25519_hash(PASSWORD)]


@pytest.mark.parametrize("plugin", ["unix_socket", "pam", "gssapi", "mysql_no_login", "authentication_ldap_simple", ""])
def test_a_password_kept_elsewhere_is_not_set(plugin):
    with pytest.raises(Unsupported):
        alter_user([identity("joe", "%", plugin)], PASSWORD, is_mariadb=True, in_clear=False)


def test_rows_of_the_servers_are_read():
    assert from_mariadb("r", "", '{"is_role":true}') is None
    found = from_mariadb(
        "joe", "%", '{"ssl_type":2,"account_locked":true,"password_last_changed":0,"password_lifetime":9}'
    )
    assert (found.plugin, found.ssl, found.is_locked, found.is_expired, found.lifetime_days) == (
        "mysql_native_password", "certificate", True, True, 9,
    )  # fmt: skip
    found = from_mysql(
        ["joe", "%", "caching_sha2_password", "ANY", "N", "Y", 1700000000, None, '{"additional_password": "x"}']
    )
    assert found.has_second
    assert (found.plugin, found.ssl, found.is_locked, found.is_expired) == ("caching_sha2_password", "any", False, True)
    assert found.last_set.year == 2023


@pytest.mark.parametrize(
    ("grant", "gives"),
    [
        ("GRANT ALL PRIVILEGES ON *.* TO `a`@`%` WITH GRANT OPTION", True),
        ("GRANT SELECT, CREATE USER ON *.* TO `a`@`%` IDENTIFIED BY PASSWORD '*X'", True),
        ("GRANT USAGE ON *.* TO `a`@`%`", False),
        ("GRANT ALL PRIVILEGES ON `shop`.* TO `a`@`%`", False),
        ("GRANT SELECT ON *.* TO `CREATE USER ON *.* TO `@`%`", False),
    ],
)
def test_the_right_to_change_others_is_read_from_the_grants(grant, gives):
    assert bool({"ALL PRIVILEGES", "CREATE USER"} & rights_on_all([grant])) is gives


@pytest.mark.parametrize(
    ("grant", "roles"),
    [
        ("GRANT `keeper`@`%` TO `a`@`%`", [("keeper", "%")]),
        ("GRANT `a``b`@`%`,`other`@`10.0.0.%` TO `a`@`%`", [("a`b", "%"), ("other", "10.0.0.%")]),
        ("GRANT `keeper` TO `a`@`%`", [("keeper", "%")]),
        ("GRANT SELECT ON `TO `.* TO `a`@`%`", []),
        ("GRANT ALL PRIVILEGES ON *.* TO `a`@`%`", []),
    ],
)
def test_roles_are_read_from_the_grants(grant, roles):
    assert roles_of(grant) == roles


def test_a_former_password_stays_valid_where_that_is_asked_for():
    accounts = [identity("joe", "h", "caching_sha2_password")]
    statement, _ = alter_user(accounts, PASSWORD, is_mariadb=False, in_clear=True, keeps=True)
    assert statement.endswith("BY %s RETAIN CURRENT PASSWORD")
    statement, _ = set_own(accounts[0], PASSWORD, SecretValue("old"), is_mariadb=False, in_clear=True, keeps=True)
    assert statement == "ALTER USER USER() IDENTIFIED BY %s REPLACE %s RETAIN CURRENT PASSWORD"


def test_names_of_locks_and_accounts():
    assert name_of("ann@example.com@10.0.0.5") == ("ann@example.com", "10.0.0.5")
    assert len(lock_name("x" * 128)) <= 64
    assert lock_name("a") != lock_name("b")
