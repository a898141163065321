"""Okta: users of an organisation, by its API token.

Source: Okta API reference, "Users" (set password) and "Authentication" (primary authentication).
"""

from __future__ import annotations

from typing import Any, ClassVar
from urllib.parse import quote

from connectors.base import Preflight, Verdict, VerdictState
from connectors.saas.plugin import SaasConfigItem, SaasPlugin
from connectors.saas.web import Answer, Web, refusal_of
from pam_jobs.errors import Forbidden, NotApplied, PolicyRefused, TargetError, Unsupported
from pam_jobs.secret import SecretValue

__all__ = ["OktaPlugin"]

_ACCEPTED = frozenset({"SUCCESS", "MFA_REQUIRED", "MFA_ENROLL", "MFA_ENROLL_ACTIVATE", "PASSWORD_WARN"})
_NOT_A_PASSWORD = {"FEDERATION", "ACTIVE_DIRECTORY", "LDAP", "SOCIAL"}


class OktaPlugin(SaasPlugin):
    """Sets a user's password as an administrator."""

    name: ClassVar[str] = "Okta"
    summary: ClassVar[str] = "Password of an Okta user"

    @classmethod
    def config_schema(cls) -> list[SaasConfigItem]:
        """Return the organisation's address and the API token."""
        return [
            SaasConfigItem(id="okta_url", label="Okta URL", type="url", required=True, desc="https://ORG.okta.com"),
            SaasConfigItem(id="okta_token", label="Okta Token", type="secret", is_secret=True, required=True),
        ]

    def check(self) -> Preflight:
        """Look the user up."""
        with self._web() as web:
            user = self._user(web)
        kind = _at(user, "credentials", "provider", "type")
        if kind in _NOT_A_PASSWORD:
            raise Unsupported(
                f"the user's password is kept elsewhere ({kind})", remedy="rotate it there, or leave this record out"
            )
        if user.get("status") in {"DEPROVISIONED", "SUSPENDED"}:
            raise Forbidden(f"the user is {user['status'].lower()} at Okta", remedy="activate the user first")
        return self.limits()

    def limits(self) -> Preflight:
        """Return Okta's own bounds; a policy of the organisation may want more."""
        return Preflight(server=self.name, min_length=8, max_length=72)

    def change_password(self) -> None:
        """Set the new password."""
        new = self.user.new_password
        if new is None:
            raise NotApplied("an Okta user has a password only", remedy="store a password in the record")
        with self._web() as web:
            user = self._user(web)
            body = {"credentials": {"password": {"value": new.reveal()}}}
            answer = web.ask("POST", f"/api/v1/users/{quote(user['id'], safe='')}", changes=True, json=body)
        if answer.is_ok:
            return
        code = answer.text("errorCode")[:16]
        if code == "E0000001" and answer.status == 400:  # validation of the value: password requirements or history
            raise PolicyRefused(f"Okta refused the password by its policy ({code})")
        raise refusal_of(answer, code)

    def verify_password(self, password: SecretValue) -> Verdict:
        """Authenticate as the user; a second factor that is asked for comes after the password."""
        body = {"username": self.user.username, "password": password.reveal()}
        try:
            with self._web(with_token=False) as web:
                answer = web.ask("POST", "/api/v1/authn", json=body)
        except TargetError as error:
            return Verdict(state=VerdictState.UNKNOWN, cause=error.code, detail=error.message)
        return _verdict(answer)

    def _user(self, web: Web) -> dict[str, Any]:
        answer = web.ask("GET", f"/api/v1/users/{quote(self.user.username, safe='')}")
        found = answer.json()
        if answer.is_ok and isinstance(found, dict) and isinstance(found.get("id"), str):
            return found
        raise refusal_of(answer, answer.text("errorCode")[:16], sent=False)

    def _web(self, *, with_token: bool = True) -> Web:
        headers = {"Accept": "application/json"}
        if with_token:
            headers["Authorization"] = f"SSWS {self.get_config('okta_token').reveal()}"
        return Web(self.get_config("okta_url"), self.config_record, self.deadline, headers=headers)


def _verdict(answer: Answer) -> Verdict:
    status = answer.text("status")
    if answer.is_ok and status in _ACCEPTED:
        return Verdict(state=VerdictState.ACCEPTED)
    if answer.is_ok and status == "PASSWORD_EXPIRED":
        return Verdict(state=VerdictState.ACCEPTED, cause="expired")
    if answer.is_ok and status == "LOCKED_OUT":
        return Verdict(state=VerdictState.LOCKED, cause="locked")
    if answer.status == 401 and answer.text("errorCode") == "E0000004":
        return Verdict(state=VerdictState.REFUSED)
    told = status or answer.text("errorCode")[:16]
    return Verdict(state=VerdictState.UNKNOWN, cause="unreachable", detail=f"Okta answered {answer.status} {told}")


def _at(document: Any, *path: str) -> Any:
    for step in path:
        document = document.get(step) if isinstance(document, dict) else None
    return document
