"""Accounts of the emulated MySQL 8, and the statements that change them."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

__all__ = ["Account", "Accounts", "Refusal", "Word", "sha2", "words_of"]

_WORD = re.compile(r"\s*(?:'((?:[^'\\]|''|\\.)*)'|`((?:[^`]|``)*)`|([\w$.*%]+)|(.))", re.DOTALL)
_ESCAPED = {"0": "\0", "b": "\b", "n": "\n", "r": "\r", "t": "\t", "Z": "\x1a"}
_SHA2, _NATIVE = "caching_sha2_password", "mysql_native_password"
_KINDS = (r"[a-z]", r"[A-Z]", r"\d", r"[^A-Za-z0-9]")


class Refusal(Exception):
    """The server's answer to what it does not do."""

    def __init__(self, code: int, msg: str) -> None:
        super().__init__(msg)
        self.code, self.msg = code, msg


@dataclass(frozen=True, kw_only=True)
class Word:
    """A piece of a statement."""

    text: str
    is_quoted: bool = False


def words_of(sql: str) -> list[Word]:
    """Return the statement's words; of quoted ones what they mean."""
    found = []
    for text, name, word, sign in _WORD.findall(sql.strip().rstrip(";")):
        if word or sign.strip():
            found.append(Word(text=word or sign))
        elif name:
            found.append(Word(text=name.replace("``", "`"), is_quoted=True))
        elif not sign:
            meant = re.sub(
                r"''|\\(.)", lambda each: _ESCAPED.get(each[1], each[1]) if each[1] else "'", text, flags=re.DOTALL
            )
            found.append(Word(text=meant, is_quoted=True))
    return found


def sha2(password: str) -> bytes:
    """Return what the server remembers of a password after a full login: SHA-256 twice."""
    return hashlib.sha256(hashlib.sha256(password.encode()).digest()).digest()


@dataclass(kw_only=True)
class Account:
    """One account."""

    user: str
    host: str
    plugin: str = _SHA2
    password: str = ""
    second: str | None = None  # the former password, which RETAIN CURRENT PASSWORD kept
    stored: str | None = None  # hash of a native account that was set as such
    cached: bytes | None = None
    is_locked: bool = False
    is_expired: bool = False
    is_role: bool = False
    changed: float = field(default_factory=time.time)
    changes: int = 0
    rights: set[tuple[str, str]] = field(default_factory=set)  # right, object
    roles: set[str] = field(default_factory=set)
    default_roles: set[str] = field(default_factory=set)

    @property
    def name(self) -> str:
        """Return the account as ``CURRENT_USER()`` has it."""
        return f"{self.user}@{self.host}"

    def is_primary(self, password: str) -> bool:
        """Say whether it is the password that was set last."""
        return self.stored is None and password == self.password

    def matches(self, password: str) -> bool:
        """Say whether it is the password, or the one that was kept beside it."""
        return self.is_primary(password) or (self.second is not None and password == self.second)

    def matches_native(self, scramble: bytes, nonce: bytes) -> bool:
        """Check the answer to a nonce by ``mysql_native_password``."""
        known = [self.stored or _native(self.password), *([_native(self.second)] if self.second is not None else [])]
        for stored in known:
            twice = bytes.fromhex(stored.removeprefix("*"))
            stage = hashlib.sha1(nonce + twice).digest()  # noqa: S324 - the protocol's
            once = bytes(left ^ right for left, right in zip(scramble, stage, strict=False))
            if hashlib.sha1(once).digest() == twice:  # noqa: S324
                return True
        return False


class Accounts:
    """All accounts of the server."""

    def __init__(self, admin: str, password: str, min_length: int | None) -> None:
        chief = Account(user=admin, host="%", password=password, rights={("ALL PRIVILEGES", "*.*")})
        self._all = {(admin, "%"): chief}
        self._min_length = min_length
        self.locks: set[str] = set()

    def reached(self, user: str, address: str) -> Account | None:
        """Return the account that a login from the address reaches: the most exact host first."""
        mine = [each for each in self._all.values() if each.user == user and not each.is_role]
        fitting = [each for each in mine if _fits(each.host, address)]
        return min(fitting, key=lambda each: ("%" in each.host, -len(each.host)), default=None)

    def refusal(self, account: Account | None, user: str, host: str, *, is_right: bool, used: bool) -> Refusal | None:
        """Return why a login is refused; None when it is not."""
        denied = f"Access denied for user '{user}'@'{host}'"
        if account is None or not is_right:
            return Refusal(1045, f"{denied} (using password: {'YES' if used else 'NO'})")
        return Refusal(3118, f"{denied}. Account is locked.") if account.is_locked else None

    def may(self, account: Account, roles: Iterable[str], right: str, objects: Iterable[str] = ("*.*",)) -> bool:
        """Say whether the account has the right on one of the objects, by itself or by an active role."""
        holders = [account, *(self._all[role, "%"] for role in roles if (role, "%") in self._all)]
        wanted = {(each, place) for each in (right, "ALL PRIVILEGES") for place in objects}
        return any(wanted & holder.rights for holder in holders)

    def grants(self, account: Account, used: Iterable[str]) -> list[str]:
        """Return the lines of SHOW GRANTS, with the rights of the roles that it names to be used."""
        rights = set(account.rights)
        for role in set(used) & account.roles:
            rights |= self._all[role, "%"].rights
        name = f"{_ticked(account.user)}@{_ticked(account.host)}"
        lines = [
            f"GRANT {', '.join(sorted(right for right, of in rights if of == place))} ON {place} TO {name}"
            for place in sorted({place for _, place in rights})
        ]
        roles = ",".join(f"{_ticked(role)}@`%`" for role in sorted(account.roles))
        return lines + ([f"GRANT {roles} TO {name}"] if roles else [])

    def variables(self) -> dict[str, str]:
        """Return the server's variables that matter for passwords."""
        rules = {} if self._min_length is None else {"validate_password.length": str(self._min_length)}
        return {"read_only": "OFF", "super_read_only": "OFF", "default_password_lifetime": "0", **rules}

    def rows(self) -> list[tuple[str | int | None, ...]]:
        """Return the rows of ``mysql.user``."""
        return [
            (each.user, each.host, each.plugin, "", "Y" if each.is_locked else "N", "Y" if each.is_expired else "N",
             int(each.changed), None, _stored(each),
             json.dumps({"additional_password": "kept"}) if each.second is not None else None)
            for each in self._all.values()
        ]  # fmt: skip

    def run(self, me: Account, roles: set[str], words: Sequence[Word]) -> None:
        """Run a statement about accounts.

        Raises:
            Refusal: it is refused; nothing was changed.
        """
        reader = _Reader(words)
        verb = f"{reader.word()} {reader.peek()}"
        if verb in {"ALTER USER", "CREATE USER"}:
            reader.word()
            self._users(me, roles, reader, creates=verb == "CREATE USER")
        elif verb in {"DROP USER", "CREATE ROLE"}:
            reader.word()
            self._demand(me, roles)
            user, host = reader.account(me)
            if verb == "CREATE ROLE":
                self._all[user, host] = Account(user=user, host=host, is_role=True, is_locked=True)
            elif self._all.pop((user, host), None) is None:
                raise Refusal(1396, f"Operation DROP USER failed for '{user}'@'{host}'")
        elif verb.startswith("GRANT"):
            self._grant(me, roles, reader)
        else:
            raise Refusal(1064, "You have an error in your SQL syntax")

    def _grant(self, me: Account, roles: set[str], reader: _Reader) -> None:
        self._demand(me, roles)
        names = list(reader.until("ON", "TO"))
        place = "".join(word.text for word in reader.until("TO")) if reader.before == "ON" else None
        holder = self._known(*reader.account(me), "GRANT")
        if place is None:
            holder.roles.add(names[0].text)
            return
        text = " ".join(word.text for word in names)
        holder.rights |= {(right.strip().upper(), place) for right in text.split(",")}

    def _users(self, me: Account, roles: set[str], reader: _Reader, *, creates: bool) -> None:
        """Read all of the statement, check it, then do all of it: the server does it so, or not at all."""
        plans = []
        while True:
            user, host = reader.account(me)
            plans.append((user, host, reader.options()))
            if not reader.skip(","):
                break
        if reader.skip("ACCOUNT"):
            plans = [(user, host, {**plan, "account": reader.word()}) for user, host, plan in plans]
        if reader.skip("PASSWORD"):
            reader.word()
            plans = [(user, host, {**plan, "expire": "yes"}) for user, host, plan in plans]
        if not reader.is_done:
            raise Refusal(1064, "You have an error in your SQL syntax")
        failed = [f"'{user}'@'{host}'" for user, host, _ in plans if ((user, host) in self._all) is creates]
        for user, host, plan in plans:
            self._check(me, roles, self._all.get((user, host)), plan, creates=creates)
        if failed:
            raise Refusal(1396, f"Operation {'CREATE' if creates else 'ALTER'} USER failed for {','.join(failed)}")
        for user, host, plan in plans:
            _apply(self._all.setdefault((user, host), Account(user=user, host=host)), plan)

    def _check(
        self, me: Account, roles: set[str], account: Account | None, plan: dict[str, str], *, creates: bool
    ) -> None:
        is_own = account is me
        if creates or not is_own or "account" in plan or "expire" in plan:
            self._demand(me, roles)
        may_all = self.may(me, roles, "CREATE USER")
        retains = {"retain", "discard"} & set(plan)
        if retains and not (may_all or self.may(me, roles, "APPLICATION_PASSWORD_ADMIN")):
            text = "Access denied; you need (at least one of) the CREATE USER or APPLICATION_PASSWORD_ADMIN privilege(s) for this operation"
            raise Refusal(1227, text)
        if "replace" in plan and not is_own:
            raise Refusal(3893, "Do not specify the current password while changing it for other users.")
        if "replace" in plan and account is not None and not account.is_primary(plan["replace"]):
            text = "Incorrect current password. Specify the correct password which has to be replaced."
            raise Refusal(3891, text)
        password = plan.get("by")
        if password is not None and self._min_length is not None and not _is_strong(password, self._min_length):
            raise Refusal(1819, "Your password does not satisfy the current policy requirements")
        if "retain" in plan and account is not None and plan.get("plugin", account.plugin) != account.plugin:
            text = f"Current password can not be retained for user '{account.user}'@'{account.host}' because authentication plugin is being changed."
            raise Refusal(3894, text)

    def _known(self, user: str, host: str, verb: str) -> Account:
        if (user, host) not in self._all:
            raise Refusal(1410 if verb == "GRANT" else 1396, "You are not allowed to create a user with GRANT")
        return self._all[user, host]

    def _demand(self, me: Account, roles: set[str]) -> None:
        if not self.may(me, roles, "CREATE USER"):
            text = "Access denied; you need (at least one of) the CREATE USER privilege(s) for this operation"
            raise Refusal(1227, text)


class _Reader:
    """Reads the words of a statement one after the other."""

    def __init__(self, words: Sequence[Word]) -> None:
        self._words = list(words)
        self._place = 0
        self.before = ""

    @property
    def is_done(self) -> bool:
        return self._place >= len(self._words)

    def peek(self) -> str:
        return "" if self.is_done or self._words[self._place].is_quoted else self._words[self._place].text.upper()

    def word(self) -> str:
        found = self.peek()
        self._place += 1
        return found

    def skip(self, word: str) -> bool:
        if self.peek() != word:
            return False
        self._place += 1
        return True

    def text(self) -> str:
        """Return a quoted word.

        Raises:
            Refusal: there is another one.
        """
        if self.is_done or not self._words[self._place].is_quoted:
            raise Refusal(1064, "You have an error in your SQL syntax")
        self._place += 1
        return self._words[self._place - 1].text

    def until(self, *ends: str) -> Iterable[Word]:
        while not self.is_done and self.peek() not in ends:
            self._place += 1
            yield self._words[self._place - 1]
        self.before = self.word()

    def account(self, me: Account) -> tuple[str, str]:
        if self.skip("USER"):
            self._place += 2
            return me.user, me.host
        user = self._words[self._place].text
        self._place += 1
        if not self.skip("@"):
            return user, "%"
        self._place += 1
        return user, self._words[self._place - 1].text

    def options(self) -> dict[str, str]:
        """Return what follows an account's name: how it is identified, and what becomes of former passwords."""
        plan: dict[str, str] = {}
        if self.skip("DISCARD"):
            self._place += 2
            return {"discard": "yes"}
        if not self.skip("IDENTIFIED"):
            return plan
        if self.skip("WITH"):
            plan["plugin"] = self._words[self._place].text
            self._place += 1
        plan["as" if self.peek() == "AS" else "by"] = "" if self.word() not in {"AS", "BY"} else self.text()
        if self.skip("REPLACE"):
            plan["replace"] = self.text()
        if self.skip("RETAIN"):
            self._place += 2
            plan["retain"] = "yes"
        return plan


def _apply(account: Account, plan: dict[str, str]) -> None:
    if "by" in plan or "as" in plan:
        if "retain" in plan:
            account.second = account.password
        account.plugin = plan.get("plugin", account.plugin)
        account.password, account.stored = plan.get("by", ""), plan.get("as")
        account.cached, account.is_expired = None, False
        account.changed = time.time()
        account.changes += 1
    if "discard" in plan:
        account.second = None
    if "expire" in plan:
        account.is_expired = True
    if "account" in plan:
        account.is_locked = plan["account"] == "LOCK"


def _is_strong(password: str, length: int) -> bool:
    return len(password) >= length and all(re.search(kind, password) for kind in _KINDS)


def _native(password: str) -> str:
    once = hashlib.sha1(password.encode()).digest()  # noqa: S324 - the protocol's
    return "*" + hashlib.sha1(once).hexdigest().upper()  # noqa: S324


def _stored(account: Account) -> str:
    if account.plugin == _NATIVE:
        return account.stored or _native(account.password)
    return "$A$005$" + hashlib.sha256(f"{account.changes}{account.password}".encode()).hexdigest()


def _ticked(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _fits(pattern: str, address: str) -> bool:
    made = "".join({"%": ".*", "_": "."}.get(sign, re.escape(sign)) for sign in pattern)
    return re.fullmatch(made, address) is not None
