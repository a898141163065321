"""Snowflake: users of an account.

The session protocol is the one of Snowflake's own drivers: a login request gives a token, and statements go with it.
Source: Snowflake SQL reference, "ALTER USER"; snowflake-connector-python (login-request, query-request), Apache-2.0.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final
from uuid import uuid4

from connectors.base import Preflight, Verdict, VerdictState
from connectors.saas.plugin import SaasConfigItem, SaasPlugin
from connectors.saas.web import Answer, Web, refusal_of
from pam_jobs.errors import (
    AmbiguousReply,
    AuthRejected,
    Forbidden,
    InvalidInput,
    Locked,
    NotApplied,
    PolicyRefused,
    TargetError,
    Unsupported,
)
from pam_jobs.secret import SecretValue

__all__ = ["SnowflakePlugin", "quote_identifier", "quote_literal"]

_WRONG: Final = "390100"
_LOCKED: Final = frozenset({"390102", "390101"})  # locked for a while, disabled
_EXPIRED: Final = "390106"
_NO_SUCH_OBJECT: Final = "002003"
_NO_RIGHT: Final = "003001"
_POLICY: Final = frozenset({"003002", "003545", "390187"})


class SnowflakePlugin(SaasPlugin):
    """Sets a user's password by ``ALTER USER`` as an administrator."""

    name: ClassVar[str] = "Snowflake"
    summary: ClassVar[str] = "Password of a Snowflake user"

    @classmethod
    def config_schema(cls) -> list[SaasConfigItem]:
        """Return the vendor's fields, and an address for private links."""
        return [
            SaasConfigItem(id="admin_user", label="Snowflake Admin User", required=True),
            SaasConfigItem(
                id="admin_password", label="Snowflake Admin Password", type="secret", is_secret=True, required=True
            ),
            SaasConfigItem(id="account", label="Snowflake Account", required=True, desc="ORG-ACCOUNT"),
            SaasConfigItem(
                id="role", label="Snowflake Role", desc="the administrator's default role where it is empty"
            ),
            SaasConfigItem(
                id="url", label="Snowflake URL", type="url", desc="where it is not ACCOUNT.snowflakecomputing.com"
            ),
        ]

    def check(self) -> Preflight:
        """Log in as the administrator and look the user up."""
        with self._web() as web:
            self._execute(web, self._admin(web), f"DESCRIBE USER {quote_identifier(self.user.username)}", changes=False)
        return self.limits()

    def limits(self) -> Preflight:
        """Return Snowflake's bounds."""
        return Preflight(server=self.name, min_length=8, max_length=256)

    def change_password(self) -> None:
        """Set the new password."""
        new = self.user.new_password
        if new is None:
            raise NotApplied("the Snowflake plugin changes passwords only", remedy="store a password in the record")
        name, literal = quote_identifier(self.user.username), quote_literal(new.reveal())
        with self._web() as web:
            token = self._admin(web)
            self._execute(web, token, f"ALTER USER {name} SET PASSWORD = {literal}", changes=True)

    def verify_password(self, password: SecretValue) -> Verdict:
        """Log in as the user; a second factor that is asked for comes after the password."""
        try:
            with self._web() as web:
                answer = self._login(web, self.user.username, password)
        except TargetError as error:
            return Verdict(state=VerdictState.UNKNOWN, cause=error.code, detail=error.message)
        code = answer.text("code")
        if _succeeded(answer):
            return Verdict(state=VerdictState.ACCEPTED)
        if code == _WRONG:
            return Verdict(state=VerdictState.REFUSED)
        if code in _LOCKED:
            return Verdict(state=VerdictState.LOCKED, cause="locked")
        if code == _EXPIRED:
            return Verdict(state=VerdictState.ACCEPTED, cause="expired")
        detail = f"Snowflake answered {answer.status} {code[:8]}"
        return Verdict(state=VerdictState.UNKNOWN, cause="unreachable", detail=detail)

    def _web(self) -> Web:
        url = self.get_config("url") or f"https://{_host_label(self.get_config('account'))}.snowflakecomputing.com"
        return Web(url, self.config_record, self.deadline, headers={"Accept": "application/json"})

    def _login(self, web: Web, name: str, password: SecretValue) -> Answer:
        data = {
            "CLIENT_APP_ID": "pam-jobs",
            "CLIENT_APP_VERSION": "1",
            "ACCOUNT_NAME": self.get_config("account"),
            "LOGIN_NAME": name,
            "PASSWORD": password.reveal(),
        }
        params = {"request_id": str(uuid4())}
        return web.ask("POST", "/session/v1/login-request", json={"data": data}, params=params)

    def _admin(self, web: Web) -> str:
        answer = self._login(web, self.get_config("admin_user"), self.get_config("admin_password"))
        token = answer.text("data", "token")
        if not (_succeeded(answer) and token):
            code = answer.text("code")[:8]
            if code == _WRONG:
                raise AuthRejected(
                    f"Snowflake refuses the administrator ({code})", remedy="correct the SaaS configuration"
                )
            if code in _LOCKED:
                raise Locked(f"the administrator is locked at Snowflake ({code})", remedy="unlock it there")
            raise refusal_of(answer, code, sent=False)
        if (role := self.get_config("role")) is not None:
            self._execute(web, token, f"USE ROLE {quote_identifier(role)}", changes=False)
        return token

    def _execute(self, web: Web, token: str, statement: str, *, changes: bool) -> None:
        body: dict[str, Any] = {"sqlText": statement, "asyncExec": False, "sequenceId": 1}
        headers = {"Authorization": f'Snowflake Token="{token}"'}
        params = {"requestId": str(uuid4())}
        answer = web.ask(
            "POST", "/queries/v1/query-request", changes=changes, json=body, headers=headers, params=params
        )
        if _succeeded(answer):
            return
        code = answer.text("code")[:8]
        if code == _NO_SUCH_OBJECT:
            raise Unsupported(
                f"Snowflake knows no such user, or the administrator may not see it ({code})",
                remedy="correct the record's login, or grant the administrator OWNERSHIP of the user",
            )
        if code == _NO_RIGHT:
            raise Forbidden(
                f"the administrator may not change this user ({code})", remedy="grant it OWNERSHIP of the user"
            )
        if code in _POLICY:
            raise PolicyRefused(f"Snowflake refused the password by its policy ({code})")
        if answer.is_ok and not code:
            raise AmbiguousReply("Snowflake's answer cannot be read") if changes else NotApplied("it cannot be read")
        if answer.is_ok:
            raise NotApplied(f"Snowflake refused the statement ({code})", remedy="look its code up")
        raise refusal_of(answer, code, sent=changes)


def _succeeded(answer: Answer) -> bool:
    document = answer.json()
    return answer.is_ok and isinstance(document, dict) and document.get("success") is True


def quote_identifier(name: str) -> str:
    """Return a name as Snowflake takes it exactly: in double quotes, those within doubled.

    A name that was made without quotes is stored in capitals, so one of plain characters is put in capitals.

    Raises:
        InvalidInput: it is empty, longer than 255 characters, or holds control characters.
    """
    if not name or len(name) > 255 or any(ord(char) < 32 or ord(char) == 127 for char in name):
        raise InvalidInput("the login is no name of a Snowflake user", remedy="correct the login of the record")
    plain = name.isascii() and name.replace("_", "").replace("$", "").isalnum() and not name[0].isdigit()
    return '"' + (name.upper() if plain else name).replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    """Return a text as a literal: quotes doubled, backslashes doubled since Snowflake reads escapes.

    Raises:
        InvalidInput: it holds NUL.
    """
    if "\0" in text:
        raise InvalidInput("a Snowflake password cannot hold NUL", remedy="choose another")
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def _host_label(account: str) -> str:
    label = account.strip().lower().replace("_", "-")
    if not label or not all(part and part.replace("-", "").isalnum() for part in label.split(".")):
        raise InvalidInput(
            "the field 'Snowflake Account' is no account name", remedy="write it as ORG-ACCOUNT, without the domain"
        )
    return label
