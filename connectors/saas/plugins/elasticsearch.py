"""Elasticsearch: users of the native realm.

Source: Elasticsearch API reference, "Change passwords", "Get users" and "Authenticate".
"""

from __future__ import annotations

from typing import Any, ClassVar
from urllib.parse import quote

from connectors.base import Preflight, Verdict, VerdictState
from connectors.saas.plugin import SaasConfigItem, SaasPlugin
from connectors.saas.web import Answer, Web, refusal_of
from pam_jobs.errors import Forbidden, NotApplied, PolicyRefused, TargetError, Unsupported
from pam_jobs.secret import SecretValue

__all__ = ["ElasticsearchPlugin"]


class ElasticsearchPlugin(SaasPlugin):
    """Sets a native user's password as an administrator, by name and password or by an API key."""

    name: ClassVar[str] = "Elasticsearch User"
    summary: ClassVar[str] = "Password of a user of Elasticsearch's native realm"

    @classmethod
    def config_schema(cls) -> list[SaasConfigItem]:
        """Return the cluster's address and what logs in there."""
        return [
            SaasConfigItem(id="url", label="Elasticsearch URL", type="url", required=True),
            SaasConfigItem(id="admin_user", label="Admin Username", desc="with Admin Password, or else an API Key"),
            SaasConfigItem(id="admin_password", label="Admin Password", type="secret", is_secret=True),
            SaasConfigItem(
                id="api_key", label="API Key", type="secret", is_secret=True, desc="encoded, as it is shown"
            ),
            SaasConfigItem(id="verify_ssl", label="Verify SSL", type="bool", default_value=True),
        ]

    def check(self) -> Preflight:
        """Look the user up."""
        with self._web() as web:
            answer = web.ask("GET", f"/_security/user/{self._name}", **self._admin())
        if not answer.is_ok:
            raise refusal_of(answer, answer.text("error", "type"), sent=False)
        user = (answer.json() or {}).get(self.user.username, {})
        if user.get("enabled") is False:
            raise Forbidden("the user is disabled in Elasticsearch", remedy="enable the user first")
        return self.limits()

    def limits(self) -> Preflight:
        """Return the least length that the native realm takes."""
        return Preflight(server=self.name, min_length=6)

    def change_password(self) -> None:
        """Set the new password."""
        new = self.user.new_password
        if new is None:
            raise NotApplied("a user of Elasticsearch has a password only", remedy="store a password in the record")
        with self._web() as web:
            path = f"/_security/user/{self._name}/_password"
            answer = web.ask("POST", path, changes=True, json={"password": new.reveal()}, **self._admin())
        if answer.is_ok:
            return
        kind = answer.text("error", "type")
        if kind == "action_request_validation_exception":
            raise PolicyRefused(f"Elasticsearch refused the password ({kind})")
        if answer.status == 400 and kind == "validation_exception":
            raise Unsupported("Elasticsearch has no such native user", remedy="correct the record's login")
        raise refusal_of(answer, kind)

    def verify_password(self, password: SecretValue) -> Verdict:
        """Authenticate as the user."""
        try:
            with self._web() as web:
                answer = web.ask("GET", "/_security/_authenticate", auth=_basic(self.user.username, password))
        except TargetError as error:
            return Verdict(state=VerdictState.UNKNOWN, cause=error.code, detail=error.message)
        return _verdict(answer)

    @property
    def _name(self) -> str:
        return quote(self.user.username, safe="")

    def _admin(self) -> dict[str, Any]:
        if (key := self.get_config("api_key")) is not None:
            return {"headers": {"Authorization": f"ApiKey {key.reveal()}"}}
        name, password = self.get_config("admin_user"), self.get_config("admin_password")
        if name is None or password is None:
            raise Unsupported(
                "the SaaS configuration has neither an administrator nor an API key",
                remedy="set 'Admin Username' and 'Admin Password', or 'API Key'",
            )
        return {"auth": _basic(name, password)}

    def _web(self) -> Web:
        verify = bool(self.get_config("verify_ssl"))
        return Web(self.get_config("url"), self.config_record, self.deadline, verify=verify)


def _basic(name: str, password: SecretValue) -> tuple[bytes, bytes]:
    return name.encode(), password.reveal().encode()


def _verdict(answer: Answer) -> Verdict:
    if answer.is_ok:
        return Verdict(state=VerdictState.ACCEPTED)
    if answer.status == 401:
        return Verdict(state=VerdictState.REFUSED)
    if answer.status == 403:  # the password is right, and the role allows nothing
        return Verdict(state=VerdictState.ACCEPTED)
    return Verdict(state=VerdictState.UNKNOWN, cause="unreachable", detail=f"Elasticsearch answered {answer.status}")
