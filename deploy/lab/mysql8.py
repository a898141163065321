"""An emulated MySQL 8: the wire is mysql-mimic's, accounts and how they log in are kept here, nothing else.

It knows ``caching_sha2_password`` (fast and full, by TLS or by the server's RSA key) and ``mysql_native_password``, accounts of
several hosts, dual passwords, rules for passwords, locks and expiry, roles, and the tables about them. Codes and sentences
of errors are the vendor's. There is no engine behind it.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mysql_mimic.server
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from mysql_mimic import MysqlServer, packets, utils
from mysql_mimic.auth import AuthPlugin, IdentityProvider
from mysql_mimic.connection import Connection
from mysql_mimic.errors import MysqlError
from mysql_mimic.session import Session

from deploy.lab import catalog
from deploy.lab.catalog import Cell, Table
from deploy.lab.emulated import EmulatedServer, Settings
from deploy.lab.emulated import start as start_emulated
from deploy.lab.mysql8_accounts import Account, Accounts, Refusal, sha2, words_of

__all__ = ["start"]

_SHA2, _NATIVE = "caching_sha2_password", "mysql_native_password"
_FAST_OK, _FULL, _WANTS_KEY = b"\x03", b"\x04", b"\x02"
_HANDLES_EXPIRED = 1 << 22  # CLIENT_CAN_HANDLE_EXPIRED_PASSWORDS
_SECRET = re.compile(r"(\b(?:BY|AS|REPLACE)\s+)'(?:[^'\\]|''|\\.)*'", re.IGNORECASE | re.DOTALL)
_VARIABLES = re.compile(r"\s*SHOW\s+GLOBAL\s+VARIABLES\s+WHERE\s+(.*)", re.IGNORECASE | re.DOTALL)
_GET_LOCK = re.compile(r"\s*SELECT\s+GET_LOCK\((.*),\s*(\d+)\)\s*", re.IGNORECASE | re.DOTALL)
_HOST = "127.0.0.1"


class _Nonce(AuthPlugin):  # type: ignore[misc]  # the package is not typed
    """Brings the nonce of the greeting; the rest is ``_Connection``'s."""

    name = client_plugin_name = _SHA2

    async def auth(self, auth_info: Any = None) -> Any:  # noqa: ARG002
        yield utils.nonce(20) + b"\0"


class _Identities(IdentityProvider):  # type: ignore[misc]
    def get_plugins(self) -> list[AuthPlugin]:
        return [_Nonce()]


class _Connection(Connection):  # type: ignore[misc]
    """A connection that logs in as the real server has it."""

    accounts: Accounts
    key: rsa.RSAPrivateKey
    account: Account | None = None

    def __init__(self, stream: Any, **named: Any) -> None:
        super().__init__(stream=_Stream(stream), **named)

    async def authenticate(self, username: str, auth_response: bytes, client_plugin_name: str | None, **_: Any) -> None:
        """Let the client in, or tell it why not."""
        account = self.accounts.reached(username, _HOST)
        plugin = account.plugin if account else _SHA2
        nonce = self.handshake_auth_data[:20]
        self.is_secure = self.stream.writer.get_extra_info("ssl_object") is not None
        if client_plugin_name != plugin and plugin in {_SHA2, _NATIVE}:
            await self.stream.write(packets.make_auth_switch_request(self.server_charset, plugin, nonce + b"\0"))
            auth_response = await self.stream.read()
        said_nothing = not auth_response
        if plugin == _NATIVE:
            is_right = account is not None and account.matches_native(auth_response, nonce)
        else:
            is_right = await self._sha2(account, auth_response, nonce)
        refusal = self.accounts.refusal(account, username, _HOST, is_right=is_right, used=not said_nothing)
        if refusal is None and account is not None and account.is_expired and not self.capabilities & _HANDLES_EXPIRED:
            text = "Your password has expired. To log in you must change it using a client that supports expired passwords."
            refusal = Refusal(1862, text)
        if refusal is not None or account is None:
            refusal = refusal or Refusal(1045, "Access denied")
            await self.stream.write(self.error(msg=refusal.msg, code=refusal.code))
            return
        self.account = account
        self.session.username = account.name
        await self.stream.write(self.ok())

    async def _sha2(self, account: Account | None, scramble: bytes, nonce: bytes) -> bool:
        """Check by what is remembered of the last full login, else by the password itself."""
        if account is not None and account.cached is not None and len(scramble) == 32:
            stage = hashlib.sha256(account.cached + nonce).digest()
            once = bytes(left ^ right for left, right in zip(scramble, stage, strict=True))
            if hmac.compare_digest(hashlib.sha256(once).digest(), account.cached):
                await self.stream.write(packets.make_auth_more_data(_FAST_OK))
                return True
        if not scramble:
            return account is not None and account.matches("")
        await self.stream.write(packets.make_auth_more_data(_FULL))
        data = await self.stream.read()
        if not self.is_secure:
            if data == _WANTS_KEY:
                form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
                await self.stream.write(packets.make_auth_more_data(self.key.public_key().public_bytes(*form)))
                data = await self.stream.read()
            sha1 = hashes.SHA1()  # noqa: S303 - the protocol's
            hidden = self.key.decrypt(data, padding.OAEP(padding.MGF1(sha1), sha1, None))
            data = bytes(byte ^ nonce[place % len(nonce)] for place, byte in enumerate(hidden))
        password = data.removesuffix(b"\0").decode()
        if account is None or not account.matches(password):
            return False
        if account.is_primary(password):
            account.cached = sha2(password)
        return True

    async def command_phase(self) -> None:
        """Answer questions, after a login only."""
        if self.account is not None:
            await super().command_phase()


class _Stream:
    """A stream whose TLS begins with what the client sent already, behind its wish for it; the package's is compiled."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def start_tls(self, ssl: ssl.SSLContext) -> None:
        loop, transport = asyncio.get_running_loop(), self.writer.transport
        early = bytes(self.reader._buffer)  # noqa: SLF001 - there is no other way to those bytes
        self.reader._buffer.clear()  # noqa: SLF001

        def feed() -> None:
            protocol: Any = transport.get_protocol()
            protocol.get_buffer(len(early))[: len(early)] = early
            protocol.buffer_updated(len(early))

        if early:
            loop.call_soon(lambda: loop.call_soon(feed))  # after the new protocol has been told of its transport
        await self.writer.start_tls(ssl)


class _Session(Session):  # type: ignore[misc]
    """Answers the statements of one connection."""

    accounts: Accounts
    log: Any

    def __init__(self) -> None:
        super().__init__()
        self.variables.set("version", "8.0.99-emulated", force=True)
        self._roles: set[str] = set()
        self._held: set[str] = set()

    async def init(self, connection: Any) -> None:
        await super().init(connection)
        if connection.account is not None:
            self._roles = set(connection.account.default_roles)

    async def close(self) -> None:
        for name in list(self._held):
            self._free(name)

    async def handle_query(self, sql: str, attrs: Any) -> Any:  # noqa: ARG002
        """Run one statement.

        Raises:
            MysqlError: it is refused.
        """
        shown = _SECRET.sub(r"\1<secret>", sql)  # as the real server's general log has it
        self.log.write(f"{self.username}: {shown}\n")
        self.log.flush()
        try:
            if match := _GET_LOCK.fullmatch(sql):
                name = words_of(match[1])[0].text
                return [(int(await self._take(name, int(match[2]))),)], ["held"]
            if match := _VARIABLES.fullmatch(sql):
                return self._select(f"SELECT Variable_name, Value FROM lab.variables WHERE {match[1]}")  # noqa: S608 - the client's own
            if re.match(r"\s*SELECT\b", sql, re.IGNORECASE):
                return self._select(sql)
            return self._statement(sql)
        except Refusal as refusal:
            raise MysqlError(refusal.msg, refusal.code) from None

    def _statement(self, sql: str) -> Any:
        words = words_of(sql)
        first = " ".join(word.text.upper() for word in words[:2])
        if first == "SHOW GRANTS":
            used = {word.text for word in words if word.is_quoted}
            return [(line,) for line in self.accounts.grants(self._me, used)], ["Grants"]
        if first == "SHOW WARNINGS":
            return [], ["Level", "Code", "Message"]
        if first == "DO RELEASE_LOCK":
            self._free(words[3].text)
        elif first == "SET ROLE":
            self._roles = set(self._me.roles) if words[2].text.upper() == "ALL" else set()
        elif words[0].text.upper() != "SET":
            self.accounts.run(self._me, self._roles, words)
        return None

    def _select(self, sql: str) -> Any:
        try:
            columns, rows = catalog.run(sql, "mysql", self._tables(sql), self._functions())
        except ValueError as error:
            raise Refusal(1064, f"You have an error in your SQL syntax; {error}") from None
        return rows, columns

    def _tables(self, sql: str) -> dict[str, Table]:
        if "mysql." in sql.lower() and not self.accounts.may(
            self._me, self._roles, "SELECT", ("*.*", "mysql.*", "mysql.user")
        ):
            raise Refusal(1142, f"SELECT command denied to user {self._quoted(self._me.name)} for table 'user'")
        user = ("user", "host", "plugin", "ssl_type", "account_locked", "password_expired", "password_last_changed",
                "password_lifetime", "authentication_string", "user_attributes")  # fmt: skip
        place = Table(columns=("id", "host"), rows=[(self.connection.connection_id, f"{_HOST}:1")])
        return {
            "mysql.user": Table(columns=user, rows=self.accounts.rows()),
            "information_schema.processlist": place,
            "information_schema.plugins": Table(columns=("plugin_type", "plugin_status"), rows=[]),
            "lab.variables": Table(columns=("Variable_name", "Value"), rows=list(self.accounts.variables().items())),
        }

    def _functions(self) -> dict[str, Callable[..., Cell]]:
        roles = ",".join(f"`{role}`@`%`" for role in sorted(self._roles)) or "NONE"
        return {
            "CURRENT_USER": lambda: self._me.name, "USER": lambda: f"{self._me.user}@{_HOST}",
            "VERSION": lambda: "8.0.99-emulated", "@@version_comment": lambda: "MySQL, emulated",
            "CONNECTION_ID": lambda: self.connection.connection_id, "UNIX_TIMESTAMP": lambda value: value,
            "CURRENT_ROLE": lambda: roles,
        }  # fmt: skip

    async def _take(self, name: str, seconds: int) -> bool:
        end = asyncio.get_running_loop().time() + seconds
        while name in self.accounts.locks and name not in self._held:
            if asyncio.get_running_loop().time() >= end:
                return False
            await asyncio.sleep(0.02)
        self.accounts.locks.add(name)
        self._held.add(name)
        return True

    def _free(self, name: str) -> None:
        if name in self._held:
            self._held.discard(name)
            self.accounts.locks.discard(name)

    @property
    def _me(self) -> Account:
        account = self.connection.account
        if account is None:
            raise Refusal(1045, "Access denied")
        return account

    @staticmethod
    def _quoted(name: str) -> str:
        return "@".join(f"'{part}'" for part in name.rsplit("@", 1))


def start(folder: Path, **options: Any) -> EmulatedServer:
    """Start a new emulated server with the administrator ``labadmin``.

    Args:
        folder: an existing or new folder.
        options: ``min_length`` (rules for passwords, of policy MEDIUM), ``certificate`` and ``key`` (files in PEM; without them the
            server speaks no TLS).

    Raises:
        LabError: it did not start.
    """
    return start_emulated(folder, "mysql8", login="labadmin", options=options)


async def _serve(settings: Settings) -> None:
    accounts = Accounts(settings.admin_login, settings.admin_password, settings.options.get("min_length"))
    _Connection.accounts = _Session.accounts = accounts
    _Connection.key = rsa.generate_private_key(65537, 2048)
    _Session.log = settings.log_path.open("a", encoding="utf-8")
    mysql_mimic.server.Connection = _Connection
    context = None
    if "certificate" in settings.options:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(settings.options["certificate"], settings.options["key"])
    server = MysqlServer(session_factory=_Session, identity_provider=_Identities(), ssl=context)
    await server.start_server(host=_HOST, port=settings.port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(Settings.read(Path(sys.argv[1]))))
