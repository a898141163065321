"""Any service that takes the new password by one request.

The request is the vendor's: ``REST Method`` (POST or PUT) to ``REST Url`` with ``Authorization: Bearer`` and the JSON
``{"username", "new_password", "prior_password"}``. With ``REST Verify Url`` a GET with HTTP Basic as the account shows
whether a password logs in: 2xx accepts it, 401 refuses it.
"""

from __future__ import annotations

from typing import ClassVar

from connectors.base import Verdict, VerdictState
from connectors.saas.plugin import SaasConfigEnum, SaasConfigItem, SaasPlugin
from connectors.saas.web import Web, refusal_of
from pam_jobs.errors import NotApplied, PolicyRefused, TargetError
from pam_jobs.secret import SecretValue

__all__ = ["RestPlugin"]


class RestPlugin(SaasPlugin):
    """Sends the new password to an address of your own."""

    name: ClassVar[str] = "REST"
    summary: ClassVar[str] = "Password that an HTTPS endpoint takes as JSON"

    @classmethod
    def config_schema(cls) -> list[SaasConfigItem]:
        """Return the vendor's three fields, and an address that shows whether a password logs in."""
        methods = [SaasConfigEnum(value="POST"), SaasConfigEnum(value="PUT")]
        return [
            SaasConfigItem(id="url", label="REST Url", type="url", required=True),
            SaasConfigItem(id="token", label="REST Token", type="secret", is_secret=True, required=True),
            SaasConfigItem(id="method", label="REST Method", type="enum", enum_values=methods, default_value="POST"),
            SaasConfigItem(
                id="verify_url",
                label="REST Verify Url",
                type="url",
                desc="answers GET with HTTP Basic as the account: 2xx or 401; without it no login proves a change",
            ),
        ]

    def change_password(self) -> None:
        """Send the new password."""
        new, prior = self.user.new_password, self.user.prior_password
        if new is None:
            raise NotApplied("the REST plugin changes passwords only", remedy="store a password in the record")
        body = {
            "username": self.user.username,
            "new_password": new.reveal(),
            "prior_password": prior.reveal() if prior else None,
        }
        headers = {"Authorization": f"Bearer {self.get_config('token').reveal()}"}
        with Web(self.get_config("url"), self.config_record, self.deadline, headers=headers) as web:
            answer = web.ask(self.get_config("method"), "", changes=True, json=body)
        if answer.is_ok:
            return
        if answer.status == 422:
            raise PolicyRefused("the service refused the password (HTTP 422)")
        raise refusal_of(answer)

    def verify_password(self, password: SecretValue) -> Verdict:
        """Log in at the address that was given for it."""
        url = self.get_config("verify_url")
        if url is None:
            return super().verify_password(password)
        try:
            with Web(url, self.config_record, self.deadline) as web:
                answer = web.ask("GET", "", auth=(self.user.username.encode(), password.reveal().encode()))
        except TargetError as error:
            return Verdict(state=VerdictState.UNKNOWN, cause=error.code, detail=error.message)
        if answer.is_ok:
            return Verdict(state=VerdictState.ACCEPTED)
        if answer.status == 401:
            return Verdict(state=VerdictState.REFUSED)
        if answer.status == 423:
            return Verdict(state=VerdictState.LOCKED, cause="locked")
        return Verdict(state=VerdictState.UNKNOWN, cause="unreachable", detail=f"the service answered {answer.status}")
